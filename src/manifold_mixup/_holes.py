"""Holes: the patches of features that come from the partner, or are interpolated (PatchUp)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from manifold_mixup import _numbers


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
    """

    block: int
    rate: float
    soft: bool
    key: Tensor | int
    together: bool = False
    sides: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _numbers.register()
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
        holes = self._holes([1 for _ in features] if self.together else features, sides, device)
        if not self.soft:
            return ~holes
        share = lam.view(-1, *(1 for _ in holes.shape[1:]))
        return torch.where(holes, share, torch.ones_like(share))

    def _holes(self, features: Sequence[int], sides: Sequence[int], device: torch.device) -> Tensor:
        # Ghiasi et al. (2018), Eq. 1: so many centres give about that share of holes.
        block, rate, channels = self.block, self.rate, 1
        for side in sides:  # not by math.prod, which no compiler follows with symbolic sizes
            rate = rate * side / (block * (side - block + 1))
        for size in features:
            channels = channels * size
        shape = [channels, *sides]
        assert isinstance(self.key, Tensor)
        centres = (_numbers.uniform(self.key, shape, device) < rate).float()
        pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(sides) - 1]
        holes = pool(centres, self.block, stride=1, padding=self.block // 2) > 0
        return holes.view(1, *features, *sides)
