"""What the arguments say of each example without a tensor: numbers or words in lists and arrays.

A list of lengths, for instance, or of the kind of each example. What forward makes of it stays with
its row when states are mixed. The operators do not show it, and numbers show it only if the values
differ between the examples.
"""

import sys
from collections.abc import Collection, Iterable, Iterator
from enum import Enum
from typing import Any

from torch import Tensor, nn

from manifold_mixup._inputs import defaults, named_values
from manifold_mixup._kept import attributes
from manifold_mixup._tree import below, children, leaves

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def said_of_each(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], rows: int
) -> dict[str, Any]:
    """Return the lists, tuples and arrays that hold a value for each of the rows, by name."""
    named = named_values(model, args, kwargs)
    return dict(found for name, value in named for found in _in(value, name, rows))


def varying(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    rows: int,
    known: Collection[str] = (),
) -> list[str]:
    """Name those whose values differ between the examples, without those that are known.

    A name ends in ``[]``, because a later batch may hold a tensor there.
    """
    said = {f"{name}[]": values for name, values in said_of_each(model, args, kwargs, rows).items()}
    return [name for name, values in said.items() if name not in known and _differ(values)]


def flags(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """Name the values of the arguments by which forward may choose other code, ``name=value``.

    These are words, None, and whether a number is zero, also where an argument is left out.
    """
    named = (*named_values(model, args, kwargs), *defaults(model, args, kwargs))
    return [flag for name, value in named for flag in _flags_in(value, name)]


def _flags_in(value: Any, name: str) -> Iterator[str]:
    if value is None or isinstance(value, bool | int | float):
        yield f"{name}={value if value is None else bool(value)}"
    elif isinstance(value, str | Enum):
        yield f"{name}={value}"
    elif not isinstance(value, Tensor | tuple | list | nn.Module):
        for key, child in children(value):
            yield from _flags_in(child, below(name, key))


def alike(inputs: Iterable[tuple[str, Tensor]], rows: int) -> set[str]:
    """Name the vectors that hold one number for all examples; this waits for their device."""
    vectors = [(name, one) for name, one in inputs if one.shape == (rows,) and rows > 1]
    return {name for name, one in vectors if not one.is_meta and bool((one == one[0]).all())}


def varying_kept(model: nn.Module, rows: int) -> set[str]:
    """Name the attributes and buffers that hold a different value for each of the rows."""
    return {
        below(module_name, name)
        for module_name, module in model.named_modules()
        for attribute, value in attributes(module)
        if attribute not in _OF_EVERY_MODULE
        for name, values in _kept_in(value, attribute, rows)
        if _differ(values)
    }


def _kept_in(value: Any, name: str, rows: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Tensor):
        if value.ndim and len(value) == rows and not value.is_meta:
            yield name, value
    else:
        yield from _in(value, name, rows, inside=True)


def remark(names: Collection[str]) -> str:
    """Return what to do if such values may be why the rows depend on their order; or nothing."""
    names = [name for name in names if "._" not in name]  # what an object keeps for itself
    if not names:
        return ""
    return (
        f". If forward reads {' or '.join(map(repr, names))}, a value for each example that is no "
        f"tensor: it stays with its row, so it can be neither reordered nor mixed. Pass a tensor, "
        f"which can be mixed where modules receive it; or attach to a part of the model that does "
        f"not read it, if nothing goes around that part"
    )


def _in(value: Any, name: str, rows: int, *, inside: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield those in a value, which may be nested, or an object with attributes."""
    if value is None or isinstance(value, Tensor | str | int | float | nn.Module):
        return
    if _is_one_each(value, rows):
        yield name, value
        return
    pairs = children(value)
    if not pairs and not inside and not callable(value):
        pairs, inside = list(getattr(value, "__dict__", {}).items()), True
    for key, child in pairs:
        yield from _in(child, below(name, key), rows, inside=inside)


def _is_one_each(value: Any, rows: int) -> bool:
    if type(value) in (list, tuple):
        return len(value) == rows and next(leaves(value), None) is None
    return _is_array(value) and value.ndim > 0 and len(value) == rows


def _differ(values: Any) -> bool:
    """Return whether the values are not all the same."""
    if isinstance(values, Tensor) or _is_array(values):
        return bool((values[1:] != values[:1]).any())
    first = values[0]
    return not all(item is first or _same(item, first) for item in values)


def _same(item: Any, first: Any) -> bool:
    try:
        return bool(item == first)
    except (TypeError, ValueError, RuntimeError):  # arrays, for instance
        return False


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)
