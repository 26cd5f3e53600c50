"""Where a model keeps tensors besides its parameters, such as the state of a recurrent network."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import Tensor, nn

_DEEP = 3
"""Containers inside each other that are searched."""
_LONG = 1000
"""Items of a container that are looked at."""


def places(model: nn.Module) -> set[tuple[int, str]]:
    """Return where modules keep tensors: the id of each module, and its attribute."""
    return {
        (id(module), name)
        for module in model.modules()
        for name, value in attributes(module)
        if next(tensors_in(value), None) is not None
    }


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module that may hold tensors, buffers too."""
    yield from vars(module).items()
    yield from module._buffers.items()


def tensors_in(value: Any, deep: int = _DEEP) -> Iterator[Tensor]:
    """Yield the tensors in a value or in plain containers there; others may answer for anything."""
    kind = type(value)
    if issubclass(kind, Tensor):
        yield value
    elif deep and kind in (tuple, list, dict):
        for item in islice(value.values() if kind is dict else value, _LONG):
            yield from tensors_in(item, deep - 1)
