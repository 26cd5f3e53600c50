"""MixPlan: what one forward pass mixes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MixPlan:
    """The layer, the coefficients and the partners of one mixed forward pass (paper, section 2).

    Args:
        layer: name of the module whose output is mixed, or ``"input"``.
        lam: λ, the share that every example keeps of itself. float32, from 0 to 1: a scalar ``()``
            for the whole batch, or ``(batch,)`` for one per example. A Python number becomes a
            scalar tensor. It is never folded to max(λ, 1-λ).
        perm: row ``i`` is mixed with row ``perm[i]``; an int64 permutation, ``(batch,)``.

    Raises:
        TypeError: a field has the wrong type or dtype.
        ValueError: ``lam`` or ``perm`` has the wrong shape or device, λ lies outside 0 to 1, or
            ``perm`` is not a permutation.

    Examples:
        >>> MixPlan("layer1", lam=torch.tensor(0.75), perm=torch.tensor([1, 0]))
        MixPlan(layer='layer1', lam=0.75, batch=2)
    """

    layer: str
    lam: Tensor
    perm: Tensor

    if TYPE_CHECKING:

        def __init__(self, layer: str, lam: Tensor | float, perm: Tensor) -> None: ...

    def __post_init__(self) -> None:
        # In compiled code the fields are graph inputs, whose values cannot be inspected.
        if not torch.compiler.is_compiling():
            _take_number(self)
            _check_types(self.layer, self.lam, self.perm)
            _check_values(self.lam, self.perm)

    @property
    def batch(self) -> int:
        """Number of examples the plan pairs."""
        return self.perm.shape[0]

    def __repr__(self) -> str:
        lam = f"{self.lam.item():.4g}" if self.lam.ndim == 0 else f"{self.batch} values"
        return f"MixPlan(layer={self.layer!r}, lam={lam}, batch={self.batch})"

    def to(self, device: torch.device | str) -> "MixPlan":
        """Return the plan with its tensors on ``device``, moved in one copy.

        A copy to a GPU is asynchronous; a copy to the CPU is complete when this returns.
        """
        device = torch.device(device)
        if self.perm.device == device:
            return self
        # One transfer instead of two: the bytes of perm, then those of lam. Pinned memory makes the
        # copy to a GPU asynchronous.
        parts = (self.perm.contiguous(), self.lam.reshape(-1).contiguous())
        packed = torch.cat([part.view(torch.uint8) for part in parts])
        if device.type == "cuda" and packed.device.type == "cpu":
            packed = packed.pin_memory()
        packed = packed.to(device, non_blocking=device.type != "cpu")
        split = 8 * self.batch
        lam = packed[split:].view(torch.float32).reshape(self.lam.shape)
        return unchecked(self.layer, lam, packed[:split].view(torch.int64))


def unchecked(layer: str, lam: Tensor, perm: Tensor) -> MixPlan:
    """Build a plan from valid parts without checks, which would read values from a device."""
    plan = object.__new__(MixPlan)
    for name, value in (("layer", layer), ("lam", lam), ("perm", perm)):
        object.__setattr__(plan, name, value)
    return plan


def _take_number(plan: MixPlan) -> None:
    """Turn a λ that is a Python number into a scalar tensor on the device of ``perm``."""
    lam: object = plan.lam
    if isinstance(lam, int | float) and not isinstance(lam, bool):
        device = plan.perm.device if isinstance(plan.perm, Tensor) else None
        object.__setattr__(plan, "lam", torch.tensor(lam, dtype=torch.float32, device=device))


def _check_types(layer: object, lam: object, perm: object) -> None:
    if not isinstance(layer, str):
        raise TypeError(f"layer must be a name, but is a {type(layer).__name__}.")
    for name, value, dtype in (("lam", lam, torch.float32), ("perm", perm, torch.int64)):
        if not isinstance(value, Tensor) or value.dtype != dtype:
            seen = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a tensor of {dtype}, but is {seen}.")


def _check_values(lam: Tensor, perm: Tensor) -> None:
    if perm.ndim != 1 or lam.shape not in (perm.shape, ()):
        raise ValueError(
            f"perm must have shape (batch,) and lam () or (batch,), but they have "
            f"{tuple(perm.shape)} and {tuple(lam.shape)}."
        )
    if lam.device != perm.device:
        raise ValueError(
            f"lam and perm must be on one device, but are on {lam.device} and {perm.device}."
        )
    if lam.requires_grad:
        raise ValueError("lam must not require a gradient: it is a constant of the step.")
    if not bool(((lam >= 0) & (lam <= 1)).all()):
        raise ValueError("lam must lie in 0 to 1.")
    if not torch.equal(perm.sort().values, torch.arange(len(perm), device=perm.device)):
        raise ValueError(f"perm must hold every row of 0 to {len(perm) - 1} exactly once.")
