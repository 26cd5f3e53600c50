"""The share that each position of a target keeps, and how targets and losses follow it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _mix
from manifold_mixup._batch_first import batch_first, undo_batch_first
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan
from manifold_mixup._target.arguments import CallPair, mix_instead, name_of
from manifold_mixup._target.losses import Criterion
from manifold_mixup._tree import map_leaves
from manifold_mixup._weigh.place import refined


@dataclass(frozen=True, repr=False, match_args=False)
class TargetPositions:
    """Where a tensor of a target has positions.

    Attributes:
        shape: its shape, batch first.
        dims: the dimensions that are positions: one for each axis, or one that holds all positions
            row by row.
    """

    shape: tuple[int, ...]
    dims: tuple[int, ...]

    def found_in(self, shape: Sequence[int]) -> set[tuple[int, ...]]:
        """Return the dimensions that are the positions, in a tensor that was computed from it.

        A loss has the target's dimensions, without some of those that are no positions: without
        that of the classes, for example. The set is empty if it has others.
        """
        left_out = len(self.shape) - len(shape)
        spare = [dim for dim in range(1, len(self.shape)) if dim not in self.dims]
        if not 0 <= left_out <= len(spare):
            return set()
        found = set()
        for left_out_dims in combinations(spare, left_out):
            kept = [dim for dim in range(len(self.shape)) if dim not in left_out_dims]
            if [self.shape[dim] for dim in kept] == list(shape):
                found.add(tuple(kept.index(dim) for dim in self.dims))
        return found


@dataclass(frozen=True, eq=False, repr=False, match_args=False)
class Shares:
    """The share that each position of a target keeps of its own.

    Attributes:
        own: the shares at the state's positions, bool or float32, ``(1 or batch, *sides)``.
        places: the positions of each tensor of the target, by its path.
        plan: the plan.
        dim: the dimension that holds the batch.
    """

    own: Tensor
    places: Mapping[str, TargetPositions]
    plan: MixPlan
    dim: int = 0

    @property
    def select(self) -> bool:
        """Whether each position is of one example."""
        return self.own.dtype == torch.bool

    def at(self, shape: Sequence[int], dims: Sequence[int], device: torch.device) -> Tensor:
        """Return the shares, to broadcast over a tensor of this shape, batch first.

        Args:
            shape: the shape.
            dims: the dimensions that are positions.
            device: the device of the tensor.
        """
        own = self.own.to(device)
        own = own.flatten(1) if len(dims) < own.ndim - 1 else own  # positions row by row
        own = refined(own, [shape[dim] for dim in dims])
        spread = [own.shape[0], *(1 for _ in shape[1:])]
        for axis, dim in enumerate(dims):
            spread[dim] = own.shape[1 + axis]
        return own.reshape(spread)

    def selected(self, value: Any, path: str = "") -> Any:
        """Return a target, or what it holds at a path, each position from the example it is of."""
        perm = self.plan.perm

        def select(path: str, y: Tensor) -> Tensor:
            own = self.at(y.shape, self.places[path].dims, y.device)
            return torch.where(own, y, y[perm.to(y.device)])

        return undo_batch_first(map_leaves(select, batch_first(value, self.dim), path), self.dim)

    def interpolate_target(self, value: Any, path: str = "") -> Any:
        """Return a target, or what it holds at a path, with every floating tensor mixed."""

        def mix(path: str, y: Tensor) -> Tensor:
            if not is_continuous(y):
                return y
            return self.mixed(y, self.places[path].dims)

        return undo_batch_first(map_leaves(mix, batch_first(value, self.dim), path), self.dim)

    def mixed(self, y: Tensor, dims: Sequence[int]) -> Tensor:
        """Return one tensor mixed, batch first, of which these dimensions are positions."""
        own = self.at(y.shape, dims, y.device)
        return _mix.apply(y, own, self.plan.perm, repeats=self.plan.repeats)

    def for_losses(
        self, losses: Any, criterion: Criterion, calls: CallPair | None = None
    ) -> Tensor:
        """Return the shares of the losses at the positions, to broadcast over them, batch first.

        Raises:
            TypeError: there is no loss for each position.
        """
        if isinstance(losses, Tensor):
            shape = tuple(batch_first(losses, self.dim).shape)
            found = set().union(*(place.found_in(shape) for place in self.places.values()))
            if len(found) == 1:
                return self.at(shape, found.pop(), losses.device)
        raise TypeError(self._no_loss_for_each(losses, criterion, calls))

    def _no_loss_for_each(self, losses: Any, criterion: Criterion, calls: CallPair | None) -> str:
        seen = type(losses).__name__
        if isinstance(losses, Tensor):
            seen = f"shape {tuple(losses.shape)}"
        shapes = dict.fromkeys(self._shown(place) for place in self.places.values())
        return (
            f"the state is mixed by position, and the target of shape {' and '.join(shapes)} has "
            f"these positions, each with a share of its own: this needs a loss for each, but "
            f"{name_of(criterion)} returned {seen}. Use one of PyTorch's losses, add a reduction "
            f"attribute or argument that accepts 'none', do not reduce in the criterion, or use "
            f"{self.alternative}{mix_instead(calls)}."
        )

    def _shown(self, place: TargetPositions) -> str:
        shape = list(place.shape)
        if self.dim < len(shape):
            shape.insert(self.dim, shape.pop(0))
        return str(tuple(shape))

    # What the reduction of losses for each example needs too; see `reductions.LossShares`.

    @property
    def batch(self) -> int:
        """Number of examples."""
        return self.plan.batch

    @property
    def repeats(self) -> bool:
        """Whether some examples are partners of several others."""
        return self.plan.repeats

    alternative = "blend=Cut(), whose positions are of one example, or dense=False"
    """What does without a loss for each position."""
