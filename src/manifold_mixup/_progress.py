"""A progress line for slow work in a terminal or a notebook."""

import sys
import time
from collections.abc import Iterator, Sequence

_PATIENCE = 2.0  # seconds; faster work needs no progress line


def watched(names: Sequence[str], *, doing: str, show: bool = True) -> Iterator[str]:
    """Yield names; after two seconds, show the current name on stderr.

    Args:
        names: the names to work on, one after another.
        doing: the verb in the line.
        show: False prints nothing. Outside a terminal or a notebook, nothing is printed either.
    """
    show = show and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    start, width = time.monotonic(), 0
    try:
        for count, name in enumerate(names, 1):
            if show and time.monotonic() - start > _PATIENCE:
                line = f"{doing} {name}, {count} of {len(names)}"
                width = _write(line, width)
            yield name
    finally:
        if width:
            _write("", width)


def _write(line: str, width: int) -> int:
    """Overwrite the last line, which had that width, and return the width of the new line."""
    sys.stderr.write(f"\r{line:<{width}}" + ("" if line else "\r"))
    sys.stderr.flush()
    return len(line)
