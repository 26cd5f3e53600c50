"""Holes: the patches of features that come from the partner, or are interpolated (PatchUp)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
        drawn: the patches of the state that is mixed, once they are drawn, so that they are drawn
            once.
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
            raise ValueError(
                f"the plan's patches and its share of the label are those of a state with sides "
                f"{self.sides}, but this one has {tuple(sides)}. Draw a plan for it: only "
                f"mixup.plan of a pass of this size can be used again."
            )
        if min(sides) < self.block:
            raise ValueError(
                f"PatchUp has patches of {self.block} positions, but the state has sides of "
                f"{tuple(sides)}. Choose a smaller block, or a layer with more positions."
            )
        shape, channels = [1, *(1 if self.together else size for size in features), *sides], 1
        drawn = self.drawn
        if drawn is not None and drawn.device == device and list(drawn.shape) == shape:
            return drawn
        for size in shape[1 : 1 + len(features)]:  # math.prod stops compilers if sizes are symbols
            channels = channels * size
        assert isinstance(self.key, Tensor)
        made = _operators.patches(self.key, [channels, *sides], device, self.rate, self.block)
        return made.view(shape)
