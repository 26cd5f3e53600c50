"""Nested values: tensors inside tuples, lists, mappings, dataclasses and batches of graphs.

A tensor's path is made of the keys that lead to it: indices, and the names of fields, where items
have some, as in a named tuple.
"""

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield ``(path, tensor)`` for every tensor in a nested value, in order.

    Examples:
        >>> [path for path, _ in leaves((torch.ones(1), {"h": [torch.ones(1)]}))]
        ['0', '1.h.0']
    """
    if isinstance(value, torch.Tensor):  # the most common case, at every step
        yield path, value
        return
    if value is ... or type(value) in _ATOMS:
        return
    for leaf_path, leaf in all_leaves(value, path):
        if isinstance(leaf, torch.Tensor):
            yield leaf_path, leaf


def all_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``(path, leaf)`` for everything in a nested value except containers, in order."""
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if value is ... or type(value) in _ATOMS or not _is_container(value):
        yield path, value
        return
    for key, child in children(value):
        yield from all_leaves(child, below(path, key))


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in the arguments or results of an operator."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


# The most common values that are no containers. The compiler of PyTorch 2.10 cannot ask the class
# of an ellipsis whether it is a dataclass, so that value has a condition of its own.
_ATOMS = {type(None), bool, int, float, str}


def _is_container(value: Any) -> bool:
    return (
        isinstance(value, (tuple, list, dict, Mapping))
        or _is_dataclass(value)
        or _is_block_mask(value)
        or _is_store(value)
    )


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _is_block_mask(value: Any) -> bool:
    """Return whether a value is a mask of flex_attention, whose module is slow to import."""
    kind = type(value)
    return kind.__name__ == "BlockMask" and kind.__module__.startswith("torch.nn.attention.")


def _is_store(value: Any) -> bool:
    """Return whether a value holds tensors by name, as a batch of graphs does.

    It is a mapping in all but its class, and can be copied and moved to a device. Iterating over it
    yields names and values.
    """
    kind = type(value)
    if not all(hasattr(kind, name) for name in _STORE):
        return False
    try:
        first = next(iter(value), None)
    except Exception:  # batches of several kinds of nodes have no iterator, empty ones may fail
        return False
    return isinstance(first, tuple) and len(first) == 2 and isinstance(first[0], str)


# In the order in which they rule out most values.
_STORE = ("__copy__", "__setitem__", "__getitem__", "__iter__", "keys", "to")


def children(value: Any) -> list[tuple[Any, Any]]:
    """List the ``(key, child)`` pairs of a container; for anything else the list is empty."""
    if value is ... or type(value) in _ATOMS:
        return []
    if isinstance(value, (tuple, list)):
        fields = None if type(value) in (tuple, list) else getattr(value, "_fields", None)
        return list(enumerate(value) if fields is None else zip(fields, value, strict=True))
    if isinstance(value, (dict, Mapping)):
        return list(value.items())
    if _is_dataclass(value):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if _is_block_mask(value):
        return list(vars(value).items())
    return list(value) if _is_store(value) else []


def map_leaves(fn: Callable[[str, torch.Tensor], Any], value: Any, path: str = "") -> Any:
    """Rebuild a nested value with ``fn(path, tensor)`` in place of every tensor.

    The containers are new, of the same class. Everything else is passed on as it is.

    Raises:
        TypeError: a mapping with tensors cannot be copied safely.
    """
    if isinstance(value, torch.Tensor):
        return fn(path, value)
    pairs = children(value)
    if not pairs:
        return value
    return _rebuilt(value, [(key, map_leaves(fn, child, below(path, key))) for key, child in pairs])


def replace_at(new: Mapping[str, Any], value: Any, path: str = "") -> Any:
    """Rebuild a nested value with the values of ``new`` at their paths.

    Containers without such a path stay the same object.

    Raises:
        TypeError: a mapping on a path cannot be copied safely.
    """
    if path in new:
        return new[path]
    pairs = [(key, child, below(path, key)) for key, child in children(value)]
    if not any(at == key or at.startswith(f"{key}.") for at in new for *_, key in pairs):
        return value
    return _rebuilt(value, [(key, replace_at(new, child, place)) for key, child, place in pairs])


def below(path: str, key: Any) -> str:
    """Return the path of a child."""
    return f"{path}.{key}" if path else str(key)


def _rebuilt(value: Any, new: list[tuple[Any, Any]]) -> Any:
    """Make a container like ``value`` with other children."""
    if isinstance(value, (tuple, list)):
        items = [child for _, child in new]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if type(value) in (dict, OrderedDict):
        return type(value)(new)
    rebuilt = _copy(value)
    for key, child in new:
        put(rebuilt, key, child)
    return rebuilt


def _copy(value: Any) -> Any:
    """Copy a mapping, a dataclass or a store, which may need more than its items to be built.

    A ModelOutput is both.
    """
    by_reference = isinstance(value, Mapping) and not isinstance(value, dict)
    if by_reference and not hasattr(value, "__copy__") and any(True for _ in leaves(value)):
        raise TypeError(
            f"a {type(value).__name__} has no __copy__, so changing a copy might change the "
            f"original. Define __copy__, or pass a dict."
        )
    if isinstance(value, dict) and _is_dataclass(value):
        return _copy_of_both(value)
    return copy.copy(value)


def _copy_of_both(value: Any) -> Any:
    """Copy a dict that is also a dataclass, as a ModelOutput is."""
    fields = [field for field in dataclasses.fields(value) if field.init]
    if not any(field.kw_only for field in fields):
        return copy.copy(value)  # ModelOutput's own, which passes all fields by their place
    made = type(value)(**{field.name: getattr(value, field.name) for field in fields})
    for key, item in value.items():
        made[key] = item
    return made


def put(container: Any, key: Any, child: Any) -> None:
    """Make a value the child of a mapping, a dataclass or a store."""
    if isinstance(container, Mapping) or _is_store(container):
        container[key] = child
    else:
        object.__setattr__(container, key, child)  # frozen dataclasses too
