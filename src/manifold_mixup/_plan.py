"""MixPlan: what one forward pass mixes."""

from dataclasses import dataclass, field
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
        perm: row ``i`` is mixed with row ``perm[i]``; int64, ``(batch,)``. It is a permutation
            unless some rows are partners of several others, and others of none.
        label: the share that every example's target keeps, if it is not that of its state (Remix,
            for example); float32 from 0 to 1, ``()`` or ``(batch,)``. None means λ.

    Raises:
        TypeError: a field has the wrong type or dtype.
        ValueError: ``lam``, ``perm`` or ``label`` has the wrong shape or device, a share lies
            outside 0 to 1, or ``perm`` outside the rows.

    Examples:
        >>> MixPlan("layer1", lam=torch.tensor(0.75), perm=torch.tensor([1, 0]))
        MixPlan(layer='layer1', lam=0.75, batch=2)
    """

    layer: str
    lam: Tensor
    perm: Tensor
    label: Tensor | None = field(default=None, kw_only=True)
    repeats: bool = field(default=False, init=False)
    """Whether a row is the partner of several others, so that ``perm`` is no permutation."""

    if TYPE_CHECKING:

        def __init__(
            self,
            layer: str,
            lam: Tensor | float,
            perm: Tensor,
            *,
            label: Tensor | float | None = None,
        ) -> None: ...

    def __post_init__(self) -> None:
        # In compiled code the fields are graph inputs, whose values cannot be inspected. What holds
        # for any partners holds for a permutation too.
        if torch.compiler.is_compiling():
            object.__setattr__(self, "repeats", True)
        else:
            for name in ("lam", "label"):
                _take_number(self, name)
            _check_types(self.layer, self.lam, self.perm)
            _check_perm(self.perm)
            check_share("lam", self.lam, self.perm)
            if self.label is not None:
                _check_type("label", self.label, torch.float32)
                check_share("label", self.label, self.perm)
            object.__setattr__(self, "repeats", not is_permutation(self.perm))

    @property
    def batch(self) -> int:
        """Number of examples the plan pairs."""
        return self.perm.shape[0]

    @property
    def target_lam(self) -> Tensor:
        """The share that every example's target keeps: ``label``, or λ if that is None."""
        return self.lam if self.label is None else self.label

    def __repr__(self) -> str:
        label = "" if self.label is None else f", label={self._as_text(self.label)}"
        lam = self._as_text(self.lam)
        return f"MixPlan(layer={self.layer!r}, lam={lam}{label}, batch={self.batch})"

    def _as_text(self, share: Tensor) -> str:
        return f"{share.item():.4g}" if share.ndim == 0 else f"{self.batch} values"

    def to(self, device: torch.device | str) -> "MixPlan":
        """Return the plan with its tensors on ``device``, moved in one copy.

        A copy to a GPU is asynchronous; a copy to the CPU is complete when this returns.
        """
        device = torch.device(device)
        if self.perm.device == device:
            return self
        # One transfer instead of several: the bytes of perm, then those of the shares. Pinned
        # memory makes the copy to a GPU asynchronous.
        shares = [share for share in (self.lam, self.label) if share is not None]
        parts = [self.perm.contiguous(), *(share.reshape(-1).contiguous() for share in shares)]
        packed = torch.cat([part.view(torch.uint8) for part in parts])
        if device.type == "cuda" and packed.device.type == "cpu":
            packed = packed.pin_memory()
        packed = packed.to(device, non_blocking=device.type != "cpu")
        perm, *moved = packed.split([part.numel() * part.element_size() for part in parts])
        lam, *label = (
            part.view(torch.float32).reshape(share.shape)
            for part, share in zip(moved, shares, strict=True)
        )
        return unchecked(
            self.layer,
            lam,
            perm.view(torch.int64),
            label=label[0] if label else None,
            repeats=self.repeats,
        )


def unchecked(
    layer: str, lam: Tensor, perm: Tensor, *, label: Tensor | None = None, repeats: bool = False
) -> MixPlan:
    """Build a plan from valid parts without checks, which would read values from a device."""
    plan = object.__new__(MixPlan)
    parts = {"layer": layer, "lam": lam, "perm": perm, "label": label, "repeats": repeats}
    for name, value in parts.items():
        object.__setattr__(plan, name, value)
    return plan


def _take_number(plan: MixPlan, name: str) -> None:
    """Turn a share that is a Python number into a scalar tensor on the device of ``perm``."""
    share: object = getattr(plan, name)
    if isinstance(share, int | float) and not isinstance(share, bool):
        device = plan.perm.device if isinstance(plan.perm, Tensor) else None
        object.__setattr__(plan, name, torch.tensor(share, dtype=torch.float32, device=device))


def _check_types(layer: object, lam: object, perm: object) -> None:
    if not isinstance(layer, str):
        raise TypeError(f"layer must be a name, but is a {type(layer).__name__}.")
    _check_type("lam", lam, torch.float32)
    _check_type("perm", perm, torch.int64)


def _check_type(name: str, value: object, dtype: torch.dtype) -> None:
    if not isinstance(value, Tensor) or value.dtype != dtype:
        seen = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name} must be a tensor of {dtype}, but is {seen}.")


def _check_perm(perm: Tensor) -> None:
    if perm.ndim != 1:
        raise ValueError(f"perm must have shape (batch,), but has {tuple(perm.shape)}.")
    if not bool(((perm >= 0) & (perm < len(perm))).all()):
        raise ValueError(
            f"perm must hold rows of the batch, 0 to {len(perm) - 1}, but holds "
            f"{perm.min().item()} to {perm.max().item()}."
        )


def check_share(name: str, share: Tensor, perm: Tensor) -> None:
    """Raise ValueError unless ``share`` holds a share for all rows, or one for each."""
    if share.shape not in (perm.shape, ()):
        raise ValueError(
            f"{name} must have shape () or (batch,), but {name} has {tuple(share.shape)} and perm "
            f"{tuple(perm.shape)}."
        )
    if share.device != perm.device:
        raise ValueError(
            f"{name} and perm must be on one device, but are on {share.device} and {perm.device}."
        )
    if share.requires_grad:
        raise ValueError(f"{name} must not require a gradient: it is a constant of the step.")
    if not bool(((share >= 0) & (share <= 1)).all()):
        raise ValueError(f"{name} must lie in 0 to 1.")


def is_permutation(perm: Tensor) -> bool:
    """Return whether every row is the partner of exactly one."""
    return torch.equal(perm.sort().values, torch.arange(len(perm), device=perm.device))
