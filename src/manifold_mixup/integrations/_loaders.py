"""Detect data loaders whose batches are already mixed."""

import functools
import inspect
import types
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any

# Recognised by name, so that neither library needs to be installed.
_MIXERS = {("torchvision", "MixUp"), ("torchvision", "CutMix"), ("timm", "Mixup")}
# Deep enough for a collate_fn that calls a function with a list of choices. Data is not searched.
_DEPTH, _WIDTH = 6, 50


def refuse_mixed(loader: Any) -> None:
    """Raise ValueError if a loader is known to mix its batches in collation.

    Args:
        loader: a `DataLoader`, a wrapper of one, or a list or dict of them.
    """
    mixer = _mixer_in(loader, _DEPTH)
    if mixer is not None:
        raise ValueError(
            f"the training data is already mixed: the loader's collate_fn applies {mixer}. Mixed "
            f"again, every target would combine four examples. Remove {mixer}; to mix "
            f'the input, set layers=["input", ...].'
        )


def _mixer_in(thing: Any, depth: int) -> str | None:
    """Return the name of a mixer that an object is, holds or calls; None if there is none."""
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
        with suppress(ValueError):  # a variable without a value yet
            used = inspect.getclosurevars(thing)
            return (used.nonlocals, used.globals)
    if isinstance(thing, types.ModuleType | type):
        return ()
    # Of a loader, a prefetching wrapper, Lightning's combined loaders, and a choice of transforms.
    names = ("collate_fn", "loader", "iterables", "transforms")
    return [getattr(thing, name) for name in names if hasattr(thing, name)]
