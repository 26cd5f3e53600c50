"""Where a model keeps tensors besides its parameters, such as the state of a recurrent network."""

from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
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
        if next(tensors_in(value, package_of(module)), None) is not None
    }


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a module that may hold tensors, buffers too."""
    yield from vars(module).items()
    yield from module._buffers.items()


def package_of(value: Any) -> str:
    """Return the package that defines the class of an object."""
    return type(value).__module__.partition(".")[0]


def tensors_in(value: Any, package: str = "", deep: int = _DEEP) -> Iterator[Tensor]:
    """Yield the tensors in a value, in plain containers there, and in objects of a package.

    Other containers and objects may answer for anything.
    """
    kind = type(value)
    if issubclass(kind, Tensor):
        yield value
    elif deep and kind in (tuple, list, dict):
        for item in islice(value.values() if kind is dict else value, _LONG):
            yield from tensors_in(item, package, deep - 1)
    elif deep and (kind is SimpleNamespace or _is_object_of(value, package)):
        for item in islice(_own_attributes(value).values(), _LONG):
            yield from tensors_in(item, package, deep - 1)


def _is_object_of(value: Any, package: str) -> bool:
    """Return whether a value is an object of the user's package, with attributes of its own."""
    own = package_of(value) == package not in ("", "torch", "builtins")
    return own and not issubclass(type(value), nn.Module | type)


def _own_attributes(value: Any) -> dict[str, Any]:
    """Return the attributes of an object, none if it hides them."""
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except Exception:  # whatever code of the user's raises
        return {}
    return found if type(found) is dict else {}
