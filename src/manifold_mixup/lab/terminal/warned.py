"""Warnings of the lab on the terminal: a sentence, without the line of code that raised it."""

import warnings

_LAB = __file__.rpartition("terminal")[0]
_usual = warnings.formatwarning


def show_plainly() -> None:
    """Print warnings of the lab as sentences; those of others stay as they are."""
    warnings.formatwarning = _formatted


def _formatted(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    if filename.startswith(_LAB):
        return f"Warning: {message}\n"
    return _usual(message, category, filename, lineno, line)
