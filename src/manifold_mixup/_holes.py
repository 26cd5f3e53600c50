"""Holes: the patches of features that come from the partner, or are interpolated (PatchUp)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from manifold_mixup import _bits, _operators


@dataclass(frozen=True, eq=False)
class Holes:
    """Patches of features, drawn for each position and channel (PatchUp, Faramarzi et al., 2020).

    Args:
        block: the sides of a patch, odd.
        rate: γ, about the share of features in patches, above 0 and at most 1.
        soft: whether patches are interpolated by λ; otherwise they come from the partner.
        key: from which the patches are drawn; an integer, or int64 on the CPU.
        together: whether all channels have the same patches.
        sides: those of the state by which a plan was completed, whose share of the label holds for
            these only; None if that is open, or compiled code completed it.
        drawn: the patches of the state that is mixed, ``(1, channels, *sides)``, once they are
            drawn: so they are drawn once, and targets with positions can follow them.
    """

    block: int
    rate: float
    soft: bool
    key: Tensor | int
    together: bool = False
    sides: tuple[int, ...] | None = None
    drawn: Tensor | None = field(default=None, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        _operators.register()
        if isinstance(self.key, int):
            key = torch.tensor(self.key, dtype=torch.int64, device="cpu")
            object.__setattr__(self, "key", key)

    def own(
        self, lam: Tensor, features: Sequence[int], sides: Sequence[int], device: torch.device
    ) -> Tensor:
        """Return the weight of an example's own features.

        Args:
            lam: λ, ``()`` or ``(batch,)``.
            features: the sizes of the dimensions that are no positions, without the batch.
            sides: those of the positions.
            device: the device of the state.

        Returns:
            ``(1, *features, *sides)``: bool if the patches are hard, else float32, with a row for
            each example if each has its λ.

        Raises:
            ValueError: a patch does not fit into the sides, or the plan was completed by others.
        """
        holes = self.patches(features, sides, device)
        if not self.soft:
            return ~holes
        share = lam.view(-1, *(1 for _ in holes.shape[1:]))
        inside, outside = (_bits.as_numbers(part, torch.float32) for part in (holes, ~holes))
        return inside * share + outside

    def patches(
        self, features: Sequence[int], sides: Sequence[int], device: torch.device
    ) -> Tensor:
        """Return where patches are, bool ``(1, *features, *sides)``.

        Args:
            features: the sizes of the dimensions that are no positions, without the batch.
            sides: those of the positions.
            device: the device of the state.

        Raises:
            ValueError: a patch does not fit into the sides, or the plan was completed by others.
        """
        if self.sides is not None and self.sides != tuple(sides):
            raise ValueError(self._of_another_state(f"sides {self.sides}", tuple(sides)))
        if min(sides) < self.block:
            raise ValueError(
                f"PatchUp has patches of {self.block} positions, but the state has sides of "
                f"{tuple(sides)}. Choose a smaller block, or a layer with more positions."
            )
        shape, channels = [1, *(1 if self.together else size for size in features), *sides], 1
        for size in shape[1 : 1 + len(features)]:  # math.prod stops compilers if sizes are symbols
            channels = channels * size
        made = self._kept(channels, sides)
        if made is None:
            assert isinstance(self.key, Tensor)
            made = _operators.patches(self.key, [channels, *sides], device, self.rate, self.block)
            made = made.unsqueeze(0)
        elif made.device != device:  # which would draw others from the key
            made = made.to(device)
        return made if made.ndim == len(shape) else made.view(shape)

    def _kept(self, channels: int, sides: Sequence[int]) -> Tensor | None:
        """Return the patches that were drawn for a state of this size; None if none were drawn."""
        drawn = self.drawn
        if drawn is not None and list(drawn.shape) != [1, channels, *sides]:
            seen = (channels, *sides)
            what = f"channels and sides {tuple(drawn.shape[1:])}"
            raise ValueError(self._of_another_state(what, seen))
        return drawn

    def _of_another_state(self, what: str, seen: object) -> str:
        return (
            f"the plan's patches and its share of the label are those of a state with {what}, but "
            f"this one has {seen}. Draw a plan for it: only mixup.plan of a pass of this size can "
            f"be used again."
        )

    def shares(self, lam: Tensor) -> Tensor:
        """Return the share that each position of the state keeps: the mean over its channels.

        Args:
            lam: λ, ``()`` or ``(batch,)``.

        Returns:
            ``(1, *sides)``, or ``(batch, *sides)`` if each example has its λ; float32. Bool if each
            position is of one example, because hard patches are those of all channels.
        """
        drawn = self.drawn
        assert drawn is not None
        if not self.soft and drawn.shape[1] == 1:
            return ~drawn[:, 0]
        inside = drawn.mean(1, dtype=torch.float32)
        if not self.soft:
            return 1 - inside
        other = 1 - lam.to(drawn.device).view(-1, *(1 for _ in inside.shape[1:]))
        return 1 - inside * other

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Holes":
        """Return the patches on a device; those that are not drawn yet are drawn there."""
        drawn = self.drawn
        if drawn is None:
            return self
        return replace(self, drawn=drawn.to(device, non_blocking=non_blocking))
