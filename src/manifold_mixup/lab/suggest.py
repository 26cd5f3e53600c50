"""Did you mean: suggestions for a name that is not known."""

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


def nearest(name: str, known: Iterable[str], *, count: int = 1, prefix: str = "") -> str:
    """Return the question whether the nearest name was meant, or nothing if none is near.

    Args:
        name: what was written.
        known: the names there are.
        count: how many of them are named at most.
        prefix: what stands before each in the question.

    Examples:
        >>> nearest("--alfa", ["--alpha", "--lr"])
        " Did you mean '--alpha'?"
        >>> nearest("resnet81", ["resnet18", "resnet152"], count=2, prefix="timm:")
        " Did you mean 'timm:resnet18' or 'timm:resnet152'?"
    """
    near = [repr(f"{prefix}{one}") for one in closest(name, known, count=count)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def closest(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the names that are spelt most alike, in capitals or not, the nearest first.

    Examples:
        >>> closest("stl11", ["STL10", "SVHN"])
        ['STL10']
    """
    # Dashes that all have make nothing near.
    plain = {one.lstrip("-").lower(): one for one in known}
    near = get_close_matches(name.lstrip("-").lower(), plain, n=count, cutoff=cutoff)
    return [plain[one] for one in near]
