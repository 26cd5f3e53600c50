"""Did you mean: suggestions for unknown names."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the nearest name and all known names.

    Examples:
        >>> unknown("table", "tabel-1a", ["table-1a", "knn"])
        "no table 'tabel-1a'. Did you mean 'table-1a'? Known: table-1a, knn"
    """
    known = list(known)
    return f"no {kind} {name!r}.{nearest(name, known)} Known: {', '.join(known)}"


def nearest(name: str, known: Iterable[str], *, count: int = 1, prefix: str = "") -> str:
    """Return " Did you mean ...?" with the nearest names, or "" if none is near.

    Args:
        name: the unknown name.
        known: the known names.
        count: the maximal number of suggestions.
        prefix: put before each suggestion.

    Examples:
        >>> nearest("--alfa", ["--alpha", "--lr"])
        " Did you mean '--alpha'?"
        >>> nearest("resnet81", ["resnet18", "resnet152"], count=2, prefix="timm:")
        " Did you mean 'timm:resnet18' or 'timm:resnet152'?"
    """
    near = [repr(f"{prefix}{one}") for one in closest(name, known, count=count)]
    return f" Did you mean {' or '.join(near)}?" if near else ""


def closest(name: str, known: Iterable[str], *, count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the names with the most similar spelling, ignoring case, nearest first.

    Examples:
        >>> closest("stl11", ["STL10", "SVHN"])
        ['STL10']
    """
    # Leading dashes, which all options share, must not count as similarity.
    plain = {one.lstrip("-").lower(): one for one in known}
    near = get_close_matches(name.lstrip("-").lower(), plain, n=count, cutoff=cutoff)
    return [plain[one] for one in near]
