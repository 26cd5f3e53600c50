"""Watch what bypasses operators: derivatives, NumPy, lists, raw pointers."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from manifold_mixup._tree import leaves

_TENSOR = torch.Tensor
# Exits from PyTorch, from which data may return as a tensor without a known origin.
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
    """The receiver of what `Outside` notices."""

    def note_copied_out(self, tensor: Tensor) -> None:
        """Note that the values of a tensor were copied out of PyTorch."""

    def note_pointer(self, tensor: Tensor) -> None:
        """Note that the address of a tensor was read, perhaps for a kernel."""

    def note_derivative(self, gradient: Tensor, by: Tensor) -> None:
        """Note that one tensor is the derivative with respect to another."""

    def note_backward(self, *, running: bool) -> None:
        """Note the begin or end of a backward pass that does not name its inputs."""


class Outside(TorchFunctionMode):
    """Notices each derivative and each exit from PyTorch."""

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
            self.notes.note_backward(running=True)
            try:
                return func(*args, **kwargs)
            finally:
                self.notes.note_backward(running=False)
        if func in _COPIES:
            self.notes.note_copied_out(args[0])
        elif func is _TENSOR.data_ptr:
            self.notes.note_pointer(args[0])
        return func(*args, **kwargs)

    def _grad(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        gradients = torch.autograd.grad(*args, **kwargs)
        inputs = kwargs["inputs"] if "inputs" in kwargs else args[1]
        given = [tensor for _, tensor in leaves(inputs)]
        if len(given) == len(gradients):
            for gradient, tensor in zip(gradients, given, strict=True):
                if gradient is not None:
                    self.notes.note_derivative(gradient, tensor)
        return gradients
