"""Models by name, built to fit a data set."""

from difflib import get_close_matches

from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.cnn import cnn
from manifold_mixup.lab.models.mlp import mlp

__all__ = ["NAMES", "build", "check_name"]

_BUILDERS = {"mlp": mlp, "cnn": cnn}
NAMES = tuple(_BUILDERS)


def build(name: str, data: Data, *, width: int) -> nn.Module:
    """Build a freshly initialised model for a data set, its weights drawn from torch's generator.

    Raises:
        ValueError: there is no such model.
    """
    check_name(name)
    return _BUILDERS[name](data, width=width)


def check_name(name: str) -> None:
    """Raise a `ValueError` with the nearest name if there is no such model."""
    if name in NAMES:
        return
    near = get_close_matches(name.lower(), NAMES, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"no model {name!r}.{hint} Known: {', '.join(NAMES)}.")
