"""Data sets by name, each a few functions in a file of its own."""

from difflib import get_close_matches
from pathlib import Path

from manifold_mixup.lab.data import fashion_mnist, mnist1d, npz
from manifold_mixup.lab.data.arrays import Data, as_input, hold_out, take

__all__ = ["Data", "as_input", "check_name", "hold_out", "load", "take"]

NAMES = ("mnist-1d", "fashion-mnist")


def load(name: str, *, root: Path) -> Data:
    """Load a data set.

    Args:
        name: one of `NAMES`, or the path of an ``.npz`` file.
        root: where downloads go, and where a copy at hand is looked for.

    Raises:
        ValueError: there is no such data set, or the file is malformed.
        OSError: a file cannot be read or downloaded.
    """
    check_name(name)
    if name == "mnist-1d":
        return mnist1d.load()
    if name == "fashion-mnist":
        return fashion_mnist.load(root)
    return npz.load(Path(name))


def check_name(name: str) -> None:
    """Raise a `ValueError` with the nearest name if there is no such data set."""
    if name in NAMES or name.endswith(".npz"):
        return
    near = get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"no data set {name!r}.{hint} Known: {', '.join(NAMES)}, or the path of an .npz file."
    )
