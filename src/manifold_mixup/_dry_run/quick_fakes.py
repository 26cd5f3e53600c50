"""Fake tensors at a third of the cost, for the operators that most models consist of.

PyTorch looks up each call of an operator in a cache, whose key takes longer than the answer; and
where the cache has none, some answers are computed in Python (a batch norm's takes 4 ms). Here the
shape of a result is computed in C++ or by one line of Python. All else is left to PyTorch.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)

_Answer = Callable[..., Any]
_aten = torch.ops.aten


class QuickFakes(FakeTensorMode):
    """A `FakeTensorMode` that answers the usual operators on usual tensors by itself."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        answer = _ANSWERS.get(func)
        if answer is not None and (device := self._usual(args, kwargs)) is not None:
            with in_kernel_invocation_manager(self):
                made = answer(func, *args, **(kwargs or {}))
            if made is not None:
                return self._faked(made, device)
        return super().__torch_dispatch__(func, types, args, kwargs or {})

    def blank(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the same form."""
        form = tensor.shape, tensor.stride()
        meta = torch.empty_strided(*form, dtype=tensor.dtype, device="meta")
        return FakeTensor(self, meta, tensor.device)

    def _usual(self, args: Any, kwargs: Any) -> torch.device | None:
        """Return the device of the arguments, or None if there is something unusual among them."""
        device = None
        if self.fake_tensor_converter.constant_storage_mapping:
            return None  # a write into a tensor of known value makes it unknown
        for tensor in _tensors(chain(args, (kwargs or {}).values())):
            if type(tensor) is not FakeTensor or tensor.fake_mode is not self:
                return None
            if tensor.dtype.is_complex or tensor.fake_device != (device or tensor.fake_device):
                return None
            device = tensor.fake_device
        return device

    def _faked(self, made: Any, device: torch.device) -> Any:
        if isinstance(made, tuple | list):
            return type(made)(self._faked(item, device) for item in made)
        if not isinstance(made, Tensor) or type(made) is FakeTensor:
            return made  # a number; a tensor that was written into
        return FakeTensor(self, made, device)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


# Each returns meta tensors, or None if the call is unusual.


def _by_kernel(func: Any, *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _convolution(func: Any, given: Tensor, weight: Tensor, *rest: Any) -> Tensor | None:
    # In another memory format, the format of the result depends on the backend.
    plain = given.is_contiguous() and weight.is_contiguous()
    return func(given, weight, *rest) if plain else None


def _like_first(func: Any, first: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    del func, args, kwargs
    return _like(first) if first.dtype.is_floating_point else None


def _like_both(func: Any, first: Any, other: Any, **kwargs: Any) -> Tensor | None:
    del func
    if kwargs.get("rounding_mode") or not isinstance(first, Tensor):
        return None
    if isinstance(other, Tensor):
        same = other.shape == first.shape and other.stride() == first.stride()
        if not same or other.dtype != first.dtype:
            return None
    elif not isinstance(other, int | float):
        return None
    return _like(first) if first.dtype.is_floating_point else None


def _product(func: Any, first: Tensor, second: Tensor) -> Tensor | None:
    del func
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[0]:
        return None
    if first.dtype != second.dtype:
        return None
    return first.new_empty(first.shape[0], second.shape[1])


def _sum_and_product(
    func: Any, added: Tensor, first: Tensor, second: Tensor, **kwargs: Any
) -> Tensor | None:
    del kwargs
    made = _product(func, first, second)
    fits = made is not None and added.shape in (made.shape, made.shape[1:])
    return made if fits and added.dtype == first.dtype else None


def _batch_norm(
    func: Any,
    given: Tensor,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    training: bool,
    *rest: Any,
) -> Any:
    del func, rest
    others = [tensor for tensor in (weight, bias, mean, var) if tensor is not None]
    channels = given.shape[1:2]
    fits = all(tensor.shape == channels and tensor.dtype == given.dtype for tensor in others)
    if not (training and fits and channels and given.dtype in _FULL):
        return None
    return _like(given), given.new_empty(channels), given.new_empty(channels)


def _layer_norm(func: Any, given: Tensor, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    del func, eps
    shape = tuple(shape)
    others = [tensor for tensor in (weight, bias) if tensor is not None]
    fits = all(tensor.shape == shape and tensor.dtype == given.dtype for tensor in others)
    if not (fits and given.shape[-len(shape) :] == shape and given.dtype in _FULL):
        return None
    if not given.is_contiguous():
        return None
    over = (*given.shape[: -len(shape)], *[1] * len(shape))
    return _like(given), given.new_empty(over), given.new_empty(over)


def _like(tensor: Tensor) -> Tensor:
    made: Tensor = _aten.clone.default(tensor)
    return made


# The statistics of lower precision have another dtype.
_FULL = (torch.float32, torch.float64)

_KERNELS = (
    *(_aten.clone.default, _aten.detach.default, _aten.alias.default, _aten.view.default),
    *(_aten._unsafe_view.default, _aten.t.default, _aten.transpose.int, _aten.permute.default),
    *(_aten.expand.default, _aten.slice.Tensor, _aten.select.int, _aten.unsqueeze.default),
    *(_aten.squeeze.dim, _aten.unbind.int, _aten.split.Tensor, _aten.split_with_sizes.default),
    *(_aten.bmm.default, _aten._softmax.default),
    *(_aten.avg_pool2d.default, _aten.max_pool2d_with_indices.default),
    *(_aten.constant_pad_nd.default, _aten._scaled_dot_product_flash_attention_for_cpu.default),
    *(_aten.relu_.default, _aten.add_.Tensor, _aten.mul_.Tensor),
)
_UNARY = (
    *(_aten.relu.default, _aten.gelu.default, _aten.silu.default, _aten.sigmoid.default),
    *(_aten.tanh.default, _aten.hardswish.default, _aten.hardsigmoid.default),
    *(_aten.leaky_relu.default, _aten.elu.default, _aten.hardtanh.default),
)
_BINARY = (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor)

_ANSWERS: dict[Any, _Answer] = {
    **dict.fromkeys(_KERNELS, _by_kernel),
    **dict.fromkeys(_UNARY, _like_first),
    **dict.fromkeys(_BINARY, _like_both),
    _aten.convolution.default: _convolution,
    _aten.mm.default: _product,
    _aten.addmm.default: _sum_and_product,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
}
