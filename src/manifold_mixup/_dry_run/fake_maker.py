"""Make fake tensors out of meta tensors, at a third of the cost of PyTorch's own way."""

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


class FakeMaker:
    """Makes fake tensors whose attributes are those of the first one of their device.

    PyTorch makes that first one. If one made here differs from it in anything, as it may in another
    release, PyTorch makes all.
    """

    def __init__(self) -> None:
        # By device; None if PyTorch has to make them. The mode is not among them: a cycle would
        # keep it, and so its tensors, alive after a dry run.
        self._attributes: dict[torch.device, dict[str, Any] | None] = {}

    def __call__(self, mode: Any, meta: Tensor, device: torch.device) -> Tensor:
        """Return a fake tensor with the memory of a meta tensor.

        Args:
            mode: the `FakeTensorMode` of the new tensor.
            meta: the meta tensor, which requires no gradient.
            device: the device of the new tensor.
        """
        attributes = self._attributes.get(device)
        if attributes is not None:
            return _made(mode, meta, device, attributes)
        made = FakeTensor(mode, meta, device)
        if device not in self._attributes:
            self._attributes[device] = _attributes_of(made, mode, meta, device)
        return made


def _made(mode: Any, meta: Tensor, device: torch.device, attributes: dict[str, Any]) -> Tensor:
    made = Tensor._make_subclass(
        FakeTensor,
        meta,
        False,
        dispatch_device=True,
        device_for_backend_keys=device,
    )
    vars(made).update(attributes)
    made.fake_mode = mode
    return made


def _attributes_of(
    first: Tensor, mode: Any, meta: Tensor, device: torch.device
) -> dict[str, Any] | None:
    """Return the attributes of a fake tensor; None if they are not all that PyTorch gives it."""
    # Otherwise each tensor is told to raise an error when its address is read.
    if not getattr(mode, "_allow_unsafe_data_ptr_access", False):
        return None
    attributes = {name: value for name, value in vars(first).items() if name != "fake_mode"}
    try:
        other = _made(mode, meta, device, attributes)
        same = torch._C._dispatch_keys(first) == torch._C._dispatch_keys(other)
    except (AttributeError, TypeError):
        return None
    return attributes if same and vars(other) == vars(first) else None
