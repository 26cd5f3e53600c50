"""Help pages: plain text, wrapped to the width of the terminal."""

import inspect
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from manifold_mixup.lab.terminal.options import Option

_NARROW = 60  # with fewer columns, a text is below its option instead of beside it
_WIDEST = 120  # longer lines are hard to read
_COLUMN = 24


def width() -> int:
    """Return the line width: that of the terminal or of ``COLUMNS``, within readable limits."""
    return max(20, min(shutil.get_terminal_size().columns, _WIDEST))


def wrap(text: str, *, indent: str = "", hang: str | None = None) -> str:
    """Wrap a text between words only, so that names and paths stay whole."""
    return textwrap.fill(
        text,
        width(),
        initial_indent=indent,
        subsequent_indent=indent if hang is None else hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def of_program(
    prog: str, about: str, commands: Mapping[str, str], options: Sequence[Option]
) -> str:
    """Return the page that lists commands.

    Args:
        prog: the words typed before a command.
        about: a description of the program.
        commands: each command with its summary.
        options: the options that need no command.
    """
    return _page(
        f"{prog} COMMAND [OPTIONS]",
        about,
        ("commands", [(f"• {name}", text) for name, text in commands.items()]),
        ("options", _entries(options)),
        end=f"Help for a command: {prog} COMMAND --help",
    )


def of_command(prog: str, about: str, options: Sequence[Option]) -> str:
    """Return the page of one command.

    Args:
        prog: the words typed to call it.
        about: a description of the command, paragraphs separated by blank lines.
        options: all its options.
    """
    positional = [option for option in options if not option.flags]
    named = [option for option in options if option.flags]
    groups = {group: [one for one in named if one.group == group] for group in _groups(named)}
    return _page(
        " ".join([prog, *(option.value for option in positional), "[OPTIONS]"]),
        about,
        ("arguments", _entries(positional)),
        *((group or "options", _entries(of)) for group, of in groups.items()),
    )


def _groups(options: Iterable[Option]) -> list[str]:
    return list(dict.fromkeys(option.group for option in options))


def _entries(options: Iterable[Option]) -> list[tuple[str, str]]:
    return [(_label(option), f"{option.text} {option.default}") for option in options]


def _label(option: Option) -> str:
    return f"{', '.join(option.flags)} {option.value}".strip()


def _page(
    usage: str, about: str, *sections: tuple[str, Sequence[tuple[str, str]]], end: str = ""
) -> str:
    paragraphs = inspect.cleandoc(about).split("\n\n")
    lines = [wrap(f"usage: {usage}", hang="  "), ""]
    for paragraph in paragraphs:
        lines += [wrap(" ".join(paragraph.split())), ""]
    for title, entries in sections:
        if entries:
            lines += [wrap(f"{title}:"), *table(entries), ""]
    return "\n".join([*lines, wrap(end)]).strip()


def table(entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines of a two-column table of labels and texts; one column if it is narrow."""
    for label, text in entries:
        if width() < _NARROW:
            spaced = label if len(label) + 2 <= width() else label.replace(",", ", ")
            yield wrap(spaced, indent="  ", hang="    ")
            yield wrap(text, indent="      ")
        elif len(label) <= _COLUMN - 4:
            yield wrap(text, indent=f"  {label}".ljust(_COLUMN), hang=" " * _COLUMN)
        else:
            yield wrap(label, indent="  ", hang="    ")
            yield wrap(text, indent=" " * _COLUMN)
