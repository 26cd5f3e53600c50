"""Create stand-ins for the user's tensors in a dry run: fake tensors or copies."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from manifold_mixup._mix import is_continuous


def fake(tensor: Tensor, mode: Any) -> Tensor:
    """Return a fake tensor with the shape and dtype of this one, but no memory.

    Args:
        tensor: a tensor of the user.
        mode: the `QuickFakes` of the new tensor.

    Raises:
        TypeError: the tensor is of a subclass that a fake tensor cannot represent.
    """
    with torch._C.DisableTorchFunctionSubclass():
        if is_lazy(tensor):
            raise TypeError("the parameters of a lazy module have no shape")
        made = _fake(plain(tensor), mode)
        if type(tensor) not in (Tensor, nn.Parameter, type(made)):
            raise TypeError(f"a {type(tensor).__name__} cannot be a fake tensor")
        return _dressed(made, tensor)


def _fake(tensor: Tensor, mode: Any) -> Tensor:
    usual = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided
    if not usual or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        made: Tensor = mode.from_tensor(tensor.detach(), static_shapes=True)
        return made
    blank: Tensor = mode.blank(tensor)
    return blank


def copied(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Copy a tensor and cast it to ``dtype`` (see `cast`)."""
    with torch._C.DisableTorchFunctionSubclass():
        if is_lazy(tensor):
            lazy: Tensor = type(tensor)(device=tensor.device)  # type: ignore[call-arg]
            return lazy
        made = plain(tensor).detach()
        made = made.to(made.dtype if dtype is None else cast(made, dtype), copy=True)
        return _dressed(made, tensor)


def level(tensor: Tensor, count: int) -> Tensor:
    """Return a tensor that is constant along every dimension of length ``count``."""
    if isinstance(tensor, nn.Parameter) or not is_continuous(tensor):
        return tensor
    for dimension in (dim for dim, size in enumerate(tensor.shape) if size == count):
        tensor = tensor.mean(dimension, keepdim=True).expand_as(tensor).contiguous()
    return tensor


def cast(tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the target dtype of a cast to ``dtype``: complex stays complex, integers stay."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def plain(tensor: Tensor) -> Tensor:
    """Return the tensor inside the wrappers of torch.func; for vmap, the first of the batch."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        inner = functorch.get_unwrapped(tensor)
        if functorch.is_batchedtensor(tensor):
            inner = inner.select(functorch.maybe_get_bdim(tensor), 0)
        tensor = inner
    return tensor


def _dressed(made: Tensor, tensor: Tensor) -> Tensor:
    """Give new values the class, the attributes and ``requires_grad`` of the original tensor."""
    kind, grows = type(tensor), tensor.requires_grad and tensor.is_leaf
    if type(made) is Tensor and kind is not Tensor:
        made = torch.Tensor._make_subclass(kind, made, grows)
    elif isinstance(tensor, nn.Parameter):
        made = _parameter(made, grows)
    elif grows:
        made.requires_grad_()
    for name, value in vars(tensor).items():
        vars(made).setdefault(name, value)
    return made


def _parameter(made: Tensor, grows: bool) -> Tensor:
    """Return new values as a parameter, without the detour by which PyTorch detaches them."""
    if type(made) is not Tensor:
        made.requires_grad_(grows)
        made._is_param = True
    return made if isinstance(made, nn.Parameter) else nn.Parameter(made, grows)
