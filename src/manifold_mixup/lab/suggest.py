"""What is said of a name that nobody knows."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return a message that there is nothing of this name, which is nearest, and what there is.

    Examples:
        >>> unknown("table", "tabel-1a", ["table-1a", "knn"])
        "no table 'tabel-1a'. Did you mean 'table-1a'? Known: table-1a, knn"
    """
    known = list(known)
    return f"no {kind} {name!r}.{nearest(name, known)} Known: {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the question whether the nearest name was meant, or nothing if none is near.

    Examples:
        >>> nearest("--alfa", ["--alpha", "--lr"])
        " Did you mean '--alpha'?"
    """
    plain = {one.lstrip("-"): one for one in known}  # dashes that all have make nothing near
    near = get_close_matches(name.lower().lstrip("-"), plain, n=1, cutoff=0.6)
    return f" Did you mean {plain[near[0]]!r}?" if near else ""
