"""The command ``manifold-mixup``: tyro over the dataclasses; nothing is declared twice.

But for one line about each command, which stands here as well: a command takes seconds to load, and
is loaded when it is named, not to list what there is.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import make_dataclass
from typing import Annotated, Any, NamedTuple, NoReturn, Union

NEEDED = (
    "accelerate", "jinja2", "matplotlib", "mnist1d", "numpy", "rich", "safetensors", "scipy",
    "tensorboard", "timm", "torchvision", "tyro",
)  # fmt: skip

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


class Place(NamedTuple):
    """Where a command is: a module of the lab, and in it its options and what does the work."""

    module: str
    options: str
    work: str
    summary: str


COMMANDS = {
    "compare": Place(
        "compare",
        "Compare",
        "compare",
        "Train no mixup, input mixup and manifold mixup; compare them over several seeds.",
    ),
    "train": Place(
        "train_one",
        "Train",
        "train_one",
        "Train one run and keep it in a folder: recipe, metrics, checkpoints, result.",
    ),
    "evaluate": Place(
        "evaluate_one",
        "Evaluate",
        "evaluate_one",
        "Test what a run ended in: clean, attacked, deformed, corrupted, against outliers, and "
        "more.",
    ),
    "analyze": Place(
        "analyses",
        "Analyze",
        "analyze",
        "Look into why it works: the theorem as numbers, and how flat hidden states are.",
    ),
    "reproduce": Place(
        "reproduce",
        "Reproduce",
        "reproduce",
        "Train and evaluate what a table of the paper shows; print its numbers beside ours.",
    ),
    "report": Place(
        "report_page",
        "Report",
        "report",
        "Make one HTML page of runs: comparison, curves, reliability, attacks, recipes.",
    ),
    "playground": Place(
        "play",
        "Playground",
        "play",
        "Watch two spirals being learnt live in the browser, with and without a method.",
    ),
    "layers": Place(
        "layers",
        "Layers",
        "show_layers",
        "Show where a model can be mixed, and where it would be mixed if nothing is said.",
    ),
}


class Command(NamedTuple):
    """A command: its options, what checks them, and what then does the work.

    ``prepare`` raises `ValueError` or `OSError` for bad input. ``work`` says whether all was done,
    or else Ctrl-C came before. ``defaults`` gives the options that are left out other values than
    their own, by those that are there.
    """

    options: type
    prepare: Callable[[Any], Any]
    work: Callable[[Any], bool]
    defaults: Callable[[Sequence[str]], Any] | None


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


def load(name: str) -> Command:
    """Import a command, and nothing of the others."""
    place = COMMANDS[name]
    module = importlib.import_module(f"manifold_mixup.lab.{place.module}")
    return Command(
        options=getattr(module, place.options),
        prepare=module.prepare,
        work=getattr(module, place.work),
        defaults=getattr(module, "defaults", None),
    )


def _parsed(args: Sequence[str]) -> tuple[Command, Any]:
    """Load the command that is named, and read its options.

    Of the others the parser knows names and summaries: enough for all that it says.
    """
    import tyro

    everything = any(arg.startswith("--tyro-") for arg in args)  # what completes words in a shell
    loaded = {name: load(name) for name in COMMANDS if everything or args[:1] == [name]}
    kinds = [_kind(name, loaded.get(name), args[1:]) for name in COMMANDS]
    one_of: Any = Union[tuple(kinds)]  # noqa: UP007 - of as many as there are
    options = tyro.cli(
        one_of,
        prog="manifold-mixup",
        description="Manifold Mixup for any PyTorch model, and a laboratory that measures it.",
        args=args,
    )
    return loaded[args[0]], options


def _kind(name: str, command: Command | None, args: Sequence[str]) -> Any:
    """Describe a command to tyro; one that was not loaded has no options, but its summary."""
    from tyro.conf import subcommand

    if command is None:
        place = COMMANDS[name]
        stand_in = make_dataclass(place.options, [])
        return Annotated[stand_in, subcommand(name, prefix_name=False, description=place.summary)]
    at: dict[str, Any] = {"prefix_name": False}
    if command.defaults is not None:
        at["default"] = command.defaults(args)
    return Annotated[command.options, subcommand(name, **at)]


def _fail(reason: str, status: int) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)
