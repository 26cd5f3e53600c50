"""Whether a data loader hands out batches that are mixed already."""

import functools
import inspect
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

# Recognised by name, so that neither library has to be there.
_MIXERS = {("torchvision", "MixUp"), ("torchvision", "CutMix"), ("timm", "Mixup")}
# Deep enough for a collate_fn that calls a function with a list of choices; no data is searched.
_DEPTH, _WIDTH = 6, 50


def refuse_mixed(loader: Any) -> None:
    """Raise if a loader is known to mix its batches as it collates them.

    Args:
        loader: a `DataLoader`, what wraps one, or a list or dict of them.

    Raises:
        ValueError: it does.
    """
    mixer = _mixer_in(loader, _DEPTH)
    if mixer is not None:
        raise ValueError(
            f"the training data is mixed already: the loader's collate_fn applies {mixer}. Mixed "
            f"once more, every target would be one of four examples. Take {mixer} out; for mixing "
            f'at the input say layers=["input", ...].'
        )


def _mixer_in(thing: Any, depth: int) -> str | None:
    """Name the mixer that something is, holds or calls; None if none is found."""
    for kind in type(thing).__mro__:
        if (kind.__module__.partition(".")[0], kind.__name__) in _MIXERS:
            return type(thing).__name__
    if depth == 0:
        return None
    found = (_mixer_in(part, depth - 1) for part in _parts(thing))
    return next((name for name in found if name), None)


def _parts(thing: Any) -> Iterable[Any]:
    if isinstance(thing, Mapping):
        return islice(thing.values(), _WIDTH)
    if isinstance(thing, list | tuple):
        return thing[:_WIDTH]
    if isinstance(thing, functools.partial):
        return (thing.func, thing.args, thing.keywords)
    if isinstance(thing, types.MethodType):
        return (thing.__func__, *vars(thing.__self__).values())
    if isinstance(thing, types.FunctionType):
        with suppress(ValueError):  # a variable that has no value yet
            used = inspect.getclosurevars(thing)
            return (used.nonlocals, used.globals)
    if isinstance(thing, types.ModuleType | type):
        return ()
    # A loader, one that prefetches it, Lightning's several in one; a choice of transforms.
    names = ("collate_fn", "loader", "iterables", "transforms")
    return [getattr(thing, name) for name in names if hasattr(thing, name)]
