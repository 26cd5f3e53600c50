"""The command ``manifold-mixup``: tyro over the dataclasses; nothing is declared twice."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, NoReturn, Union

NEEDED = (
    "accelerate", "jinja2", "matplotlib", "mnist1d", "numpy", "rich", "safetensors", "scipy",
    "tensorboard", "timm", "torchvision", "tyro",
)  # fmt: skip

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class Command(NamedTuple):
    """A command: its options, what checks them, and what then does the work.

    ``prepare`` raises `ValueError` or `OSError` for bad input. ``work`` says whether all was done,
    or else Ctrl-C came before.
    """

    options: type
    prepare: Callable[[Any], Any]
    work: Callable[[Any], bool]
    defaults: Callable[[Sequence[str]], Any] | None = None


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit.

    The status is 0 if all went well, 1 if a run failed, 2 for bad input, 130 after Ctrl-C.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        _fail(
            f"the lab needs {', '.join(missing)}, not installed here. "
            "Install it with: pip install 'manifold-mixup[lab]'",
            BAD_INPUT,
        )
    args = list(sys.argv[1:] if args is None else args)
    try:
        command, options = _parsed(args)
        prepared = command.prepare(options)
    except (ValueError, OSError) as error:
        _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    try:
        sys.exit(0 if command.work(prepared) else INTERRUPTED)
    except (FloatingPointError, ValueError, OSError) as error:
        _fail(str(error), FAILED)


def _commands() -> dict[str, Command]:
    from manifold_mixup.lab import (
        analyses,
        compare,
        evaluate_one,
        layers,
        play,
        report_page,
        reproduce,
        train_one,
    )

    return {
        "compare": Command(compare.Compare, compare.prepare, compare.compare),
        "train": Command(
            train_one.Train, train_one.prepare, train_one.train_one, train_one.defaults
        ),
        "evaluate": Command(evaluate_one.Evaluate, evaluate_one.prepare, evaluate_one.evaluate_one),
        "analyze": Command(analyses.Analyze, analyses.prepare, analyses.analyze),
        "reproduce": Command(reproduce.Reproduce, reproduce.prepare, reproduce.reproduce),
        "report": Command(report_page.Report, report_page.prepare, report_page.report),
        "playground": Command(play.Playground, play.prepare, play.play),
        "layers": Command(layers.Layers, layers.prepare, layers.show_layers),
    }


def _parsed(args: Sequence[str]) -> tuple[Command, Any]:
    import tyro

    commands, kinds = _commands(), []
    for name, command in commands.items():
        at: dict[str, Any] = {"prefix_name": False}
        if command.defaults is not None and args[:1] == [name]:
            at["default"] = command.defaults(args[1:])
        kinds.append(Annotated[command.options, tyro.conf.subcommand(name, **at)])
    one_of: Any = Union[tuple(kinds)]  # noqa: UP007 - of as many as there are
    options = tyro.cli(
        one_of,
        prog="manifold-mixup",
        description="Manifold Mixup for any PyTorch model, and a laboratory that measures it.",
        args=args,
    )
    return commands[args[0]], options


def _fail(reason: str, status: int) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)
