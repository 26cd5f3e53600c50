"""The command ``manifold-mixup``: tyro parses the dataclasses of the commands.

Each command's summary is repeated here, because importing a command takes seconds. A command is
imported only when it is run, so that listing the commands stays fast.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple, NoReturn, Union

from manifold_mixup import __version__
from manifold_mixup.lab.terminal import help_page, options, values, words
from manifold_mixup.lab.terminal.listed import listed
from manifold_mixup.lab.terminal.options import Option
from manifold_mixup.lab.terminal.warned import show_plainly

PROGRAM = "manifold-mixup"
ABOUT = "Manifold Mixup for any PyTorch model, and a laboratory that measures it."

NEEDED = (
    "accelerate", "jinja2", "matplotlib", "mnist1d", "numpy", "rich", "safetensors", "scipy",
    "tensorboard", "timm", "torchvision", "tyro",
)  # fmt: skip

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
NOT_READ = 141


COMMANDS = {
    "compare": "Train no mixup, input mixup, manifold mixup or others; compare them over seeds.",
    "train": "Train one run and keep it in a folder: recipe, metrics, checkpoints, result.",
    "tune": "Search the best settings of each way of mixing, against no mixup with the same "
    "budget.",
    "evaluate": "Evaluate a finished run on clean, attacked, deformed and corrupted test sets, "
    "and more.",
    "analyze": "Study why it works: the paper's theorem in numbers, and the spectra of hidden "
    "states.",
    "reproduce": "Reproduce a table or figure of the paper; print the paper's numbers beside ours.",
    "report": "Write one HTML page about runs: comparison, curves, reliability, attacks, recipes.",
    "playground": "Watch networks learn two spirals live in the browser, with and without mixup.",
    "layers": "Show which layers of a model can be mixed, and which are chosen by default.",
}
"""The modules in ``commands/``, each with the first line of its help page."""


class Command(NamedTuple):
    """The contents of a module in ``commands/``.

    Attributes:
        options: the dataclass that the command line is parsed into.
        prepare: checks the options; raises `ValueError` or `OSError` for bad input.
        run: does the work, given the result of ``prepare``; returns False if Ctrl-C stopped it.
        defaults: returns defaults that depend on the arguments typed; None if the dataclass has
            them all.
    """

    options: type
    prepare: Callable[[Any], Any]
    run: Callable[[Any], bool]
    defaults: Callable[[Sequence[str]], Any] | None


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit.

    The exit status is 0 on success, 1 if a run failed, 2 for bad input, 130 after Ctrl-C, and 141
    if the reader of the output closed the pipe, as in ``| head``.
    """
    show_plainly()
    try:
        status = _run(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_output()
        status = NOT_READ
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def load(name: str) -> Command:
    """Import one command, without the others."""
    module = importlib.import_module(f"manifold_mixup.lab.commands.{name}")
    return Command(
        options=module.Options,
        prepare=module.prepare,
        run=module.run,
        defaults=getattr(module, "defaults", None),
    )


def _run(args: list[str]) -> int:
    if args[:1] == ["--version"]:
        print(f"{PROGRAM} {__version__}")
        return 0
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _failed(
            f"the lab needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "not installed. Install it with: pip install 'manifold-mixup[lab]'",
            BAD_INPUT,
        )
    try:
        parsed = _read(args)
        if isinstance(parsed, str):
            print(parsed)
            return 0
        command, options = parsed
        prepared = command.prepare(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        return _failed(str(error), BAD_INPUT)
    try:
        return 0 if command.run(prepared) else INTERRUPTED
    except BrokenPipeError:
        raise
    except (FloatingPointError, ValueError, OSError) as error:
        return _failed(str(error), FAILED)


def _read(args: list[str]) -> tuple[Command, Any] | str:
    """Return the command and its options, or the page to print."""
    if any(arg.startswith("--tyro-") for arg in args):
        return _completion(args)
    name, *given = args or [""]
    if name in ("-h", "--help", "help") and not (given and given[0] in COMMANDS):
        return _overview()
    if name == "help":
        name, given = given[0], [*given[1:], "--help"]
    if name not in COMMANDS:
        raise ValueError(words.no_command(PROGRAM, name, COMMANDS))
    return _parse(load(name), name, given)


def _overview() -> str:
    own = (
        Option(("-h", "--help"), "", "Show this page.", ""),
        Option(("--version",), "", "Show the version.", ""),
    )
    return help_page.of_program(PROGRAM, ABOUT, COMMANDS, own)


def _parse(command: Command, name: str, given: list[str]) -> tuple[Command, Any] | str:
    """Parse the arguments after the name of a command; return a page if they ask for one."""
    prog, kind, after = f"{PROGRAM} {name}", command.options, given
    asks_for_help = any(word in ("-h", "--help") for word in given)
    if subcommands := options.subcommands(kind):
        subcommand = next(iter(given), "")
        if subcommand not in subcommands:
            if asks_for_help:
                summaries = {
                    one: (subcommands[one].__doc__ or "").splitlines()[0] for one in subcommands
                }
                return help_page.of_program(prog, kind.__doc__ or "", summaries, ())
            raise ValueError(words.no_command(prog, subcommand, subcommands))
        prog, kind, after = f"{prog} {subcommand}", subcommands[subcommand], given[1:]
    if asks_for_help:
        default = None if command.defaults is None else command.defaults(given)
        return help_page.of_command(prog, kind.__doc__ or "", options.read(kind, default))
    options_of_command = options.read(kind)
    if (name_of_list := words.list_asked_for(after, options_of_command)) is not None:
        return listed(name_of_list)
    words.check(prog, after, options_of_command)
    return command, _understood(command, prog, name, given)


def _understood(command: Command, prog: str, name: str, given: list[str]) -> Any:
    """Turn arguments that were checked into the dataclass of a command."""
    import tyro

    default = {} if command.defaults is None else {"default": command.defaults(given)}
    with values.registry():
        parsed, more = tyro.cli(
            command.options,
            prog=f"{PROGRAM} {name}",
            args=given,
            return_unknown_args=True,
            **default,
        )
    if more:
        raise ValueError(f"{prog} takes no argument {more[0]!r}. See {prog} --help.")
    return parsed


def _completion(args: Sequence[str]) -> NoReturn:
    """Print or write the shell completion of every command and its options."""
    import tyro
    from tyro.conf import subcommand

    kinds: list[Any] = [
        Annotated[load(name).options, subcommand(name, prefix_name=False)] for name in COMMANDS
    ]
    union: Any = Union[tuple(kinds)]  # noqa: UP007 - X | Y needs the types written out
    tyro.cli(union, prog=PROGRAM, args=args)
    sys.exit(BAD_INPUT)  # tyro exits itself, unless it does not know the option


def _silence_output() -> None:
    """Redirect the output to the null device, so that Python's last flush does not fail too."""
    with suppress(OSError, ValueError):  # in tests the output is not a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(reason: str, status: int) -> int:
    lines = f"error: {reason}".split("\n")
    # In a file, a line is not wrapped, so that it can be searched.
    shown = map(help_page.wrap, lines) if sys.stderr.isatty() and len(lines) == 1 else lines
    print("\n".join(shown), file=sys.stderr)
    return status
