"""A line of progress for work that takes long, where a person may be watching."""

import sys
import time
from collections.abc import Iterator, Sequence

_PATIENCE = 2.0  # seconds; what takes less needs no progress


def watched(names: Sequence[str], *, doing: str, show: bool = True) -> Iterator[str]:
    """Yield names, and report on stderr at which one the work is, once it has taken two seconds.

    Args:
        names: what is worked on, one after another.
        doing: the verb in the line.
        show: False prints nothing. Neither does a stderr that is no terminal, except in a notebook.
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
    """Write a line over the latest, which had that width; return the width of the new one."""
    sys.stderr.write(f"\r{line:<{width}}" + ("" if line else "\r"))
    sys.stderr.flush()
    return len(line)
