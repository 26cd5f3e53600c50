"""Fake tensors at a small part of the cost, for the operators that most models consist of.

PyTorch looks up each call of an operator in a cache, whose key takes longer than the answer; and
where the cache has none, some answers are computed in Python (a batch norm's takes 4 ms). Here the
form of a result is looked up by a short key. The first time, it is computed in C++ or by one line
of Python. All else is left to PyTorch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
    in_kernel_invocation_manager,
)

from manifold_mixup._dry_run.fake_maker import FakeMaker
from manifold_mixup._dry_run.forms import UNKNOWN, WRITTEN, Form, Key, form_of, key_of
from manifold_mixup._storage import storage_of
from manifold_mixup._tree import tensors_in

_Answer = Callable[..., Any]
_aten = torch.ops.aten


class QuickFakes(FakeTensorMode):
    """A `FakeTensorMode` that answers the usual operators on usual tensors by itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._forms: dict[Key, Any] = {}
        self._make = FakeMaker()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether PyTorch wraps each call, so that it is not compiled: nothing is here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        made = self.quick(func, args, kwargs)
        if made is not NotImplemented:
            return made
        key = self._key(func, args, kwargs)
        made = super().__torch_dispatch__(func, types, args, kwargs)
        if key is not None:
            self._forms[key] = form_of(func, args, made)
        return made

    def quick(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return the result of an operator, apart from all modes, or `NotImplemented`."""
        key = self._key(func, args, kwargs)
        form = None if key is None else self._forms.get(key)
        if form is not None:
            return NotImplemented if form is UNKNOWN else self._of_form(form, args)
        if key is None or func not in _ANSWERS:
            return NotImplemented
        made = self._computed(_ANSWERS[func], func, args, kwargs)
        if made is not NotImplemented:
            self._forms[key] = form_of(func, args, made)
        return made

    def blank(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the same form."""
        made: Tensor = self._of_form(
            Form(tensor.shape, tensor.stride(), tensor.dtype, tensor.device), ()
        )
        return made

    def _key(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Key | None:
        key = key_of(self, func, args, kwargs)
        known = self.fake_tensor_converter.constant_storage_mapping
        if key is not None and known and func._schema.is_mutable and storage_of(args[0]) in known:
            return None  # a write into a tensor of known value makes it unknown
        return key

    def _of_form(self, form: Any, args: Any) -> Any:
        """Return a new result of a form."""
        if form is WRITTEN:
            return args[0]
        if type(form) is not Form:
            return form and tuple(self._of_form(item, args) for item in form)
        shape, stride, dtype, device, start = form
        with torch._C._DisableTorchDispatch():
            if start is None:
                meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
            else:
                base, meta = args[0], torch.empty(0, dtype=dtype, device="meta")
                start += base.storage_offset()
                meta.set_(base.untyped_storage(), start, shape, stride)
        return self._make(self, meta, device)

    def _computed(self, answer: _Answer, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return what an answer gives; `NotImplemented` if it has none for these arguments."""
        device = self._device(args, kwargs)
        if device is None:
            return NotImplemented
        with in_kernel_invocation_manager(self):
            made = answer(func, *args, **kwargs)
        return NotImplemented if made is None else self._faked(made, device)

    def _device(self, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
        """Return the device of the arguments; None if something among them is unusual."""
        device = None
        for tensor in tensors_in((args, kwargs)):
            if type(tensor) is not FakeTensor or tensor.fake_mode is not self:
                return None
            if tensor.dtype.is_complex or tensor.constant is not None:
                return None
            if tensor.fake_device != (device or tensor.fake_device):
                return None
            device = tensor.fake_device
        return device

    def _faked(self, made: Any, device: torch.device) -> Any:
        if isinstance(made, tuple | list):
            return type(made)(self._faked(item, device) for item in made)
        if not isinstance(made, Tensor) or type(made) is FakeTensor:
            return made  # a number; a tensor that was written into
        return self._make(self, made, device)


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


def _like_both(func: Any, first: Any, other: Any, **kwargs: Any) -> Any:
    if kwargs.get("rounding_mode") or not isinstance(first, Tensor):
        return None
    if isinstance(other, Tensor):
        if other.dtype != first.dtype or not first.dtype.is_floating_point:
            return None
        if other.shape != first.shape or other.stride() != first.stride():
            return func(first, other, **kwargs)
    elif not isinstance(other, int | float):
        return None
    return _like(first) if first.dtype.is_floating_point else None


def _itself(func: Any, first: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    del func, args, kwargs
    return first if first.dtype.is_floating_point else None


def _like_contiguous(func: Any, first: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    usual = first.is_contiguous() and first.dtype in _FULL and not kwargs
    return _like_first(func, first, *args) if usual else None


def _new_like(func: Any, first: Tensor, shape: Any, **kwargs: Any) -> Tensor | None:
    del func
    return None if any(kwargs.values()) else first.new_empty(shape)


def _joined(func: Any, tensors: Any, *args: Any) -> Tensor | None:
    alike = len({tensor.dtype for tensor in tensors}) == 1
    plain = all(tensor.is_contiguous() for tensor in tensors)
    return func(tensors, *args) if alike and plain else None


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
    over = (*given.shape[: -len(shape)], *[1] * len(shape))
    return given.new_empty(given.shape), given.new_empty(over), given.new_empty(over)


def _like(tensor: Tensor) -> Tensor:
    made: Tensor = _aten.clone.default(tensor)
    return made


# The statistics of lower precision have another dtype.
_FULL = (torch.float32, torch.float64)

_VIEWS = (
    *(_aten.detach.default, _aten.alias.default, _aten.view.default, _aten._unsafe_view.default),
    *(_aten.t.default, _aten.transpose.int, _aten.permute.default, _aten.expand.default),
    *(_aten.slice.Tensor, _aten.select.int, _aten.unsqueeze.default, _aten.squeeze.dim),
    *(_aten.unbind.int, _aten.split.Tensor, _aten.split_with_sizes.default),
)
_KERNELS = (
    *(_aten.clone.default, _aten.bmm.default, _aten._softmax.default),
    *(_aten.avg_pool2d.default, _aten.max_pool2d_with_indices.default),
    *(_aten.constant_pad_nd.default, _aten._scaled_dot_product_flash_attention_for_cpu.default),
    *(_aten.relu_.default, _aten.add_.Tensor, _aten.mul_.Tensor, _aten.mean.dim),
)
_UNARY = (
    *(_aten.relu.default, _aten.gelu.default, _aten.silu.default, _aten.sigmoid.default),
    *(_aten.tanh.default, _aten.hardswish.default, _aten.hardsigmoid.default),
    *(_aten.leaky_relu.default, _aten.elu.default, _aten.hardtanh.default),
)
_IN_PLACE = (
    *(_aten.silu_.default, _aten.sigmoid_.default, _aten.tanh_.default, _aten.hardswish_.default),
    *(_aten.hardsigmoid_.default, _aten.leaky_relu_.default, _aten.elu_.default),
    *(_aten.hardtanh_.default, _aten.gelu_.default),
)
_BINARY = (_aten.add.Tensor, _aten.sub.Tensor, _aten.mul.Tensor, _aten.div.Tensor)

_ANSWERS: dict[Any, _Answer] = {
    **dict.fromkeys((*_VIEWS, *_KERNELS), _by_kernel),
    **dict.fromkeys(_UNARY, _like_first),
    **dict.fromkeys(_BINARY, _like_both),
    **dict.fromkeys(_IN_PLACE, _itself),
    **dict.fromkeys((_aten.roll.default, _aten._safe_softmax.default), _like_contiguous),
    _aten.cat.default: _joined,
    _aten.new_empty.default: _new_like,
    _aten.convolution.default: _convolution,
    _aten.mm.default: _product,
    _aten.addmm.default: _sum_and_product,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
}
