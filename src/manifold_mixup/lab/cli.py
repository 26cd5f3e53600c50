"""The command ``manifold-mixup``: tyro over the dataclasses; nothing is declared twice."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

NEEDED = (
    "accelerate", "matplotlib", "mnist1d", "numpy", "rich", "safetensors", "tensorboard", "timm",
    "torchvision", "tyro",
)  # fmt: skip

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


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

    import tyro

    from manifold_mixup.lab.compare import Compare, compare
    from manifold_mixup.lab.compare import prepare as prepare_compare
    from manifold_mixup.lab.reproduce import Reproduce, reproduce
    from manifold_mixup.lab.reproduce import prepare as prepare_reproduce

    # Of each command: its options, what checks them, and what then does the work.
    commands: dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], bool]]] = {
        "compare": (Compare, prepare_compare, compare),
        "reproduce": (Reproduce, prepare_reproduce, reproduce),
    }
    options = tyro.extras.subcommand_cli_from_dict(
        {name: kind for name, (kind, _, _) in commands.items()},
        prog="manifold-mixup",
        description="Manifold Mixup for any PyTorch model, and a laboratory that measures it.",
        args=args,
    )
    _, prepare, work = next(parts for parts in commands.values() if isinstance(options, parts[0]))
    try:
        prepared = prepare(options)
    except (ValueError, OSError) as error:
        _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    try:
        sys.exit(0 if work(prepared) else INTERRUPTED)
    except (FloatingPointError, OSError) as error:
        _fail(str(error), FAILED)


def _fail(reason: str, status: int) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(status)
