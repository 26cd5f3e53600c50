"""What is said of a name that nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that there is nothing of this name, which is nearest, and what there is.

    Examples:
        >>> unknown("table", "tabel-1a", ["table-1a", "knn"])
        "no table 'tabel-1a'. Did you mean 'table-1a'? Known: table-1a, knn"
    """
    known = list(known)
    near = get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"no {kind} {name!r}.{hint} Known: {', '.join(known)}"
