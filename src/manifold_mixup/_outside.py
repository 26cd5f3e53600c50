"""What reaches tensors around the operators: derivatives, NumPy, lists, raw pointers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from manifold_mixup._tree import leaves

_TENSOR = torch.Tensor
# Ways out of PyTorch, from which data may come back as a tensor without a past.
_COPIES: tuple[Callable[..., Any], ...] = (
    _TENSOR.numpy,
    _TENSOR.tolist,
    _TENSOR.__array__,
    _TENSOR.__dlpack__,
    _TENSOR.__reduce_ex__,  # copy.copy, pickle, torch.save
    _TENSOR.untyped_storage,
    _TENSOR.storage,
)
_BACKWARD: tuple[Callable[..., Any], ...] = (_TENSOR.backward, torch.autograd.backward)


class Notes(Protocol):
    """Who is told."""

    def took_out(self, tensor: Tensor) -> None:
        """Note that the values of a tensor were copied out of PyTorch."""

    def pointed(self, tensor: Tensor) -> None:
        """Note that the memory of a tensor was handed out, to a kernel perhaps."""

    def derived(self, gradient: Tensor, by: Tensor) -> None:
        """Note that one tensor is a derivative by another."""

    def backward(self, *, running: bool) -> None:
        """Note that a backward pass to tensors nobody named begins or ends."""


class Outside(TorchFunctionMode):
    """Tells of each derivative and of each way out of PyTorch."""

    def __init__(self, notes: Notes) -> None:
        super().__init__()
        self.notes = notes

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of PyTorch."""
        kwargs = dict(kwargs or {})
        if func is torch.autograd.grad:
            return self._grad(args, kwargs)
        if func in _BACKWARD:
            self.notes.backward(running=True)
            try:
                return func(*args, **kwargs)
            finally:
                self.notes.backward(running=False)
        if func in _COPIES:
            self.notes.took_out(args[0])
        elif func is _TENSOR.data_ptr:
            self.notes.pointed(args[0])
        return func(*args, **kwargs)

    def _grad(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        gradients = torch.autograd.grad(*args, **kwargs)
        inputs = kwargs["inputs"] if "inputs" in kwargs else args[1]
        given = [tensor for _, tensor in leaves(inputs)]
        if len(given) == len(gradients):
            for gradient, tensor in zip(gradients, given, strict=True):
                if gradient is not None:
                    self.notes.derived(gradient, tensor)
        return gradients
