"""Keep the forms of what operators return, by those of their arguments.

The form of a tensor is all but its memory. For the usual operators, arguments of equal forms give
results of equal forms, so that a form has to be computed once.
"""

import functools
from collections.abc import Iterable
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from manifold_mixup._tree import tensors_in

Key = tuple[Any, ...]
# In place of a form: of the first argument, which was written into; of an unusual result.
WRITTEN, UNKNOWN = object(), object()


class Form(NamedTuple):
    """All of a tensor but its memory.

    Attributes:
        shape: its shape.
        stride: its strides.
        dtype: its dtype.
        device: its device.
        start: how far behind the first argument it begins, if it is a view of that; None if its
            memory is new.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    start: int | None = None


def key_of(mode: Any, func: Any, args: Any, kwargs: dict[str, Any]) -> Key | None:
    """Return what the forms of a call's results depend on; None if they depend on more.

    Args:
        mode: the `FakeTensorMode` of its tensors.
        func: the operator.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    if not _is_usual(func):
        return None
    parts = [func, torch.get_default_dtype(), *kwargs]
    values = chain(args, kwargs.values()) if kwargs else args
    if not _describe(mode, values, parts, _plain_of(func)):
        return None
    if func is _INDEX and not _BYTES.isdisjoint(parts):
        return None  # the values of a mask decide how many rows it chooses
    return tuple(parts)


def _describe(mode: Any, values: Iterable[Any], parts: list[Any], plain: set[type]) -> bool:
    """Add the forms of values to ``parts``; return False if one of them is unusual.

    Args:
        mode: the `FakeTensorMode` of the tensors.
        values: the values.
        parts: the forms found so far.
        plain: classes of objects that are their own form.
    """
    for value in values:
        kind = type(value)
        if kind is FakeTensor:
            dtype = value.dtype
            if value.fake_mode is not mode or value.constant is not None or dtype.is_complex:
                return False
            parts += kind, value.shape, value.stride(), dtype, value.fake_device
        elif kind in plain:
            parts += kind, value  # the kind, because 1, 1.0 and True are equal
        elif kind is list or kind is tuple:
            parts.append(len(value))
            if not _describe(mode, value, parts, plain):
                return False
        elif kind is float:
            parts.append(kind)
        else:
            return False
    return True


@functools.cache
def _is_usual(func: Any) -> bool:
    """Return whether the forms of an operator's arguments decide those of its results."""
    if getattr(func, "namespace", "") != "aten":
        return False
    if func is not _INDEX and not _BY_VALUE.isdisjoint(func.tags):
        return False
    schema = func._schema
    name = schema.name.removeprefix("aten::")
    shared = [given.alias_info is not None for given in schema.arguments]
    of_first = shared.count(True) == 1 and shared[0] and (func.is_view or name.endswith("_"))
    return not name.startswith(_UNUSUAL) and (of_first or not any(shared))


@functools.cache
def _plain_of(func: Any) -> set[type]:
    """Return the classes of arguments whose values matter to an operator."""
    anywhere = func._schema.is_mutable or torch.Tag.pointwise in func.tags
    return _PLAIN - {float} if anywhere else _PLAIN


@functools.cache
def _is_view(func: Any) -> bool:
    """Return whether results share the memory of the first argument."""
    return bool(func.is_view) or func is torch.ops.aten._unsafe_view.default


def form_of(func: Any, args: Any, made: Any) -> Any:
    """Return the form of a call's result, or those in it; `UNKNOWN` if they are unusual."""
    if func._schema.is_mutable:
        return WRITTEN if made is args[0] else UNKNOWN
    new = list(tensors_in(made))
    if not all(map(_is_real, new)):
        return UNKNOWN
    if _is_view(func):
        return _form(made, args[0]) if all(_views(tensor, args[0]) for tensor in new) else UNKNOWN
    memory = [tensor.untyped_storage()._cdata for tensor in new]
    given = {tensor.untyped_storage()._cdata for tensor in tensors_in(args)}
    alone = len({*memory, *given}) == len(memory) + len(given)
    return _form(made) if new and alone and all(map(_fills_memory, new)) else UNKNOWN


def _form(made: Any, base: Tensor | None = None) -> Any:
    if isinstance(made, tuple | list):
        return tuple(_form(item, base) for item in made)
    if not isinstance(made, Tensor):
        return made
    start = None if base is None else int(made.storage_offset() - base.storage_offset())
    return Form(tuple(made.shape), made.stride(), made.dtype, made.device, start)


def _is_real(tensor: Tensor) -> bool:
    """Return whether a tensor is a usual fake tensor of real numbers."""
    usual = type(tensor) is FakeTensor and tensor.constant is None
    return usual and not tensor.dtype.is_complex


def _views(tensor: Tensor, base: Any) -> bool:
    """Return whether a tensor is a new view of another."""
    if type(base) is not FakeTensor or tensor is base or tensor.dtype != base.dtype:
        return False
    return bool(tensor.untyped_storage()._cdata == base.untyped_storage()._cdata)


def _fills_memory(tensor: Tensor) -> bool:
    """Return whether a tensor has no more memory than it needs."""
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    size = (last + 1) * tensor.element_size() if tensor.numel() else 0
    return not tensor.storage_offset() and tensor.untyped_storage().nbytes() == size


_INDEX = torch.ops.aten.index.Tensor
_BYTES = {torch.bool, torch.uint8, torch.int8}
# Operators whose results depend on values, or that change more than values.
_BY_VALUE = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_BY_VALUE |= {torch.Tag.inplace_view}
# Operators whose result has a known value, is at a place that its form leaves out, or has a flag.
_UNUSUAL = ("lift", "set_", "resize", "as_strided", "to_mkldnn", "_efficientzero", "_neg_view")
_PLAIN = {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout}
_PLAIN |= {torch.memory_format}
