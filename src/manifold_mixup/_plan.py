"""MixPlan: what one forward pass mixes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manifold_mixup import _bits
from manifold_mixup._blend import SimilarityKernel
from manifold_mixup._box import Box, Ranges
from manifold_mixup._holes import Holes
from manifold_mixup._noise import DrawnNoise
from manifold_mixup._transport import Aligned, Transport

Weight = Tensor | Box | Holes | SimilarityKernel | Aligned | Transport
"""How the positions of a state are weighed; see `MixPlan`."""


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
        weight: how the positions of the state are weighed, if not all by λ. A tensor is the share
            that an example keeps of itself at each position, bool or float32 from 0 to 1, ``(1,
            *sides)`` or ``(batch, *sides)``, where sides may be those of a grid coarser than the
            state's. A `Box` (CutMix), `Holes` (PatchUp), `SimilarityKernel` or ``Aligned``
            (AlignMixup) becomes what it means for the state when the layer has run.
        label: the share that every example's target keeps, if it is not that of its state (Remix,
            for example); float32 from 0 to 1, ``()`` or ``(batch,)``. None means the mean of
            ``weight``, or λ.
        noise: what is added to the mixed state.

    Raises:
        TypeError: a field has the wrong type or dtype.
        ValueError: ``lam``, ``perm``, ``weight`` or ``label`` has the wrong shape or device, a
            share lies outside 0 to 1, or ``perm`` outside the rows.

    Examples:
        >>> import torch
        >>> MixPlan("layer1", lam=torch.tensor(0.75), perm=torch.tensor([1, 0]))
        MixPlan(layer='layer1', lam=0.75, batch=2)
    """

    layer: str
    lam: Tensor
    perm: Tensor
    weight: Weight | None = field(default=None, kw_only=True)
    label: Tensor | None = field(default=None, kw_only=True)
    noise: DrawnNoise | None = field(default=None, kw_only=True)
    repeats: bool = field(default=False, init=False)
    """Whether a row is the partner of several others, so that ``perm`` is no permutation."""
    box: Ranges | None = field(default=None, init=False, repr=False)
    """Where ``weight`` is False, if that is one box, which is known without reading it."""

    if TYPE_CHECKING:

        def __init__(
            self,
            layer: str,
            lam: Tensor | float,
            perm: Tensor,
            *,
            weight: Weight | None = None,
            label: Tensor | float | None = None,
            noise: DrawnNoise | None = None,
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
            _check_weight(self.weight, self.perm)
            if isinstance(self.weight, Box):
                object.__setattr__(self, "weight", self.weight.to(self.perm.device))
            _check_noise(self.noise)
            object.__setattr__(self, "repeats", not is_permutation(self.perm))

    @property
    def batch(self) -> int:
        """Number of examples the plan pairs."""
        return self.perm.shape[0]

    @property
    def target_lam(self) -> Tensor:
        """The share that every example's target keeps: ``label``, the mean of ``weight``, or λ.

        Raises:
            RuntimeError: it depends on the state, and the layer has not run.
        """
        if self.label is not None:
            return self.label
        if self.pending:
            raise RuntimeError(
                f"the share of the targets follows from the state at {self.layer!r}, by "
                f"{self.weight!r}, but no pass has run it. Use mixup.plan after the forward pass."
            )
        return mean_weight(self.weight) if isinstance(self.weight, Tensor) else self.lam

    @property
    def pending(self) -> bool:
        """Whether the state of the layer decides how it is mixed, and it has not run."""
        if self.weight is None or isinstance(self.weight, Tensor | Transport):
            return False
        return self.label is None

    def __repr__(self) -> str:
        parts = [f"layer={self.layer!r}", f"lam={self._as_text(self.lam)}"]
        if isinstance(self.weight, Tensor):
            parts.append(f"weight={tuple(self.weight.shape)}")
        elif self.weight is not None:
            parts.append(f"weight={self.weight!r}")
        if self.label is not None:
            parts.append(f"label={self._as_text(self.label)}")
        if self.noise is not None:
            parts.append(f"noise={self.noise!r}")
        return f"MixPlan({', '.join(parts)}, batch={self.batch})"

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
        non_blocking = device.type != "cpu"
        weight, noise = self.weight, self.noise
        return unchecked(
            self.layer,
            lam,
            perm.view(torch.int64),
            weight=weight.to(device, non_blocking=non_blocking)
            if isinstance(weight, Tensor | Box | Holes | Transport)
            else weight,
            label=label[0] if label else None,
            noise=noise and noise.to(device, non_blocking=non_blocking),
            repeats=self.repeats,
        )


def unchecked(
    layer: str,
    lam: Tensor,
    perm: Tensor,
    *,
    weight: Weight | None = None,
    label: Tensor | None = None,
    noise: DrawnNoise | None = None,
    repeats: bool = False,
    box: Ranges | None = None,
) -> MixPlan:
    """Build a plan from valid parts without checks, which would read values from a device."""
    plan = object.__new__(MixPlan)
    parts = {
        "layer": layer,
        "lam": lam,
        "perm": perm,
        "weight": weight,
        "label": label,
        "noise": noise,
        "repeats": repeats,
        "box": box,
    }
    if not torch.compiler.is_dynamo_compiling():
        object.__setattr__(plan, "__dict__", parts)
        return plan
    for name, value in parts.items():  # the compiler traces no other way
        object.__setattr__(plan, name, value)
    return plan


def mixes_alike(one: MixPlan | None, other: MixPlan | None) -> bool:
    """Return whether two passes were mixed in the same way: by one plan, or by its completions."""
    if one is other:
        return True
    if one is None or other is None or one.perm is not other.perm or one.lam is not other.lam:
        return False  # of one plan, every completion has these tensors, unless a state decided λ
    if isinstance(one.weight, Holes) and isinstance(other.weight, Holes):
        weights_agree = one.weight.key is other.weight.key
    else:
        weights_agree = _are_equal(one.weight, other.weight)
    return weights_agree and _are_equal(one.label, other.label)


def _are_equal(one: object, other: object) -> bool:
    both = isinstance(one, Tensor) and isinstance(other, Tensor)
    return torch.equal(one, other) if both else one is other  # type: ignore[arg-type]


def mean_weight(weight: Tensor) -> Tensor:
    """Return the mean share that each example keeps, float32 ``()`` or ``(batch,)``."""
    numbers = _bits.as_numbers(weight, torch.float32) if weight.dtype == torch.bool else weight
    mean = numbers.flatten(1).mean(1)
    return mean[0] if len(weight) == 1 else mean


def _check_noise(noise: object) -> None:
    if not isinstance(noise, DrawnNoise | None):
        raise TypeError(f"noise must be a DrawnNoise or None, but is a {type(noise).__name__}.")


def _check_weight(weight: object, perm: Tensor) -> None:
    if isinstance(weight, Tensor):
        _check_weights(weight, perm)
    elif not isinstance(weight, Weight | None):
        raise TypeError(
            f"weight must be a tensor, Box, Holes, SimilarityKernel or Aligned, but is a "
            f"{type(weight).__name__}."
        )
    elif isinstance(weight, Box) and len(weight.borders) != len(perm) and weight.borders.ndim == 4:
        raise ValueError(f"there are {len(weight.borders)} boxes, but {len(perm)} rows in perm.")


def _check_weights(weight: Tensor, perm: Tensor) -> None:
    if weight.dtype not in (torch.bool, torch.float32):
        raise TypeError(f"weight must be bool or torch.float32, but is {weight.dtype}.")
    if not 2 <= weight.ndim <= 4 or len(weight) not in (1, len(perm)) or not weight.numel():
        raise ValueError(
            f"weight must have shape (1, *sides) or (batch, *sides), of one to three sides, but "
            f"has {tuple(weight.shape)} and perm {tuple(perm.shape)}."
        )
    if weight.device != perm.device:
        raise ValueError(
            f"weight and perm must be on one device, but are on {weight.device} and {perm.device}."
        )
    if weight.requires_grad:
        raise ValueError("weight must not require a gradient: it is a constant of the step.")
    if not bool(((weight >= 0) & (weight <= 1)).all()):
        raise ValueError("weight must be between 0 and 1.")


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
        raise ValueError(f"{name} must be between 0 and 1.")


def is_permutation(perm: Tensor) -> bool:
    """Return whether every row is the partner of exactly one."""
    return torch.equal(perm.sort().values, torch.arange(len(perm), device=perm.device))
