"""Select dense targets by the box that the state was cut by: maps, masks, a class per token."""

from typing import Any

import torch
from torch import Tensor

from manifold_mixup._front import back, front
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan, Weight
from manifold_mixup._tree import leaves, map_leaves
from manifold_mixup._weigh import refined


def selected(
    value: Any,
    plan: MixPlan,
    *,
    dim: int = 0,
    dense: bool | None = None,
    probabilities: bool = False,
) -> Any:
    """Return a target with each position from the example that gave it; None if it has none.

    Args:
        value: a tensor, or a container of tensors.
        plan: the plan.
        dim: the dimension that holds the batch.
        dense: whether the target has positions; None finds out.
        probabilities: whether floating targets are of classes, at dimension 1.

    Raises:
        TypeError: positions have a fraction of both targets.
        ValueError: some of its tensors have positions and others do not, or their sides are no
            multiples of the box's, or it is not clear whether they are positions.
    """
    if plan.weight is None or dense is False:
        return None
    value = front(value, dim)
    grid = _Grid(plan.weight, dense=dense, probabilities=probabilities)
    named = {
        path: (f"the target {path!r}" if path else "the target", leaf)
        for path, leaf in leaves(value)
    }
    dims = {path: grid.dims(leaf, name) for path, (name, leaf) in named.items()}
    if not any(dims.values()):
        return None
    if not all(dims.values()):
        has = next(path for path, found in dims.items() if found)
        none = next(path for path, found in dims.items() if not found)
        raise ValueError(
            f"{has!r} has positions, which are selected by the box that the state was cut "
            f"by, but {none!r} has none, and counts by its share. Compute their losses apart, each "
            f"with mixup.target(...)."
        )
    weight = plan.weight
    if not isinstance(weight, Tensor) or weight.dtype != torch.bool:
        raise TypeError(
            f"the target has positions, but each position of the state is partly of both examples, "
            f"by {'weights' if isinstance(weight, Tensor) else weight!r}. Use blend=Cut(), whose "
            f"positions are of one, or dense=False if the target has none."
        )
    return back(map_leaves(lambda path, leaf: _select(leaf, weight, plan, dims[path]), value), dim)


def _select(y: Tensor, own: Tensor, plan: MixPlan, dims: tuple[int, ...]) -> Tensor:
    own = refined(own.to(y.device), [y.shape[dim] for dim in dims])
    shape = [own.shape[0], *(1 for _ in y.shape[1:])]
    for axis, dim in enumerate(dims):
        shape[dim] = own.shape[1 + axis]
    return torch.where(own.view(shape), y, y[plan.perm.to(y.device)])


class _Grid:
    """The positions at which a state was cut, and which dimensions of targets follow them."""

    def __init__(self, weight: Weight, *, dense: bool | None, probabilities: bool) -> None:
        self.sides = tuple(weight.shape[1:]) if isinstance(weight, Tensor) else (0,)
        self.dense, self.probabilities = dense, probabilities

    def dims(self, y: Tensor, what: str) -> tuple[int, ...]:
        """Return the dimensions of a target that are positions; none if it has none."""
        axes = len(self.sides)
        if self.dense and y.ndim <= axes:
            raise ValueError(
                f"dense=True, but {what} of shape {tuple(y.shape)} has not {axes} dimensions of "
                f"positions beside the batch."
            )
        if not self.dense and not self._has_positions(y, what):
            return ()
        return self._fitting(y, what) if any(self.sides) else tuple(range(1, y.ndim))

    def _has_positions(self, y: Tensor, what: str) -> bool:
        axes = len(self.sides)
        if not is_continuous(y):
            return y.ndim > axes
        alike = axes == 1 and y.ndim == 2 and y.shape[1] > 1 and any(self.sides)
        if alike and not self.probabilities and y.shape[1] % self.sides[0] == 0:
            raise ValueError(
                f"{what} has shape {tuple(y.shape)}, and the state was cut at {self.sides[0]} "
                f"positions: are they the positions of the target too? Pass dense=True or "
                f"dense=False to mixup.wrap or mixup.target."
            )
        return y.ndim > axes + 1 or y.ndim == axes + 1 > 2

    def _fitting(self, y: Tensor, what: str) -> tuple[int, ...]:
        """Return the dimensions that are positions: the last, or those after the batch."""
        axes = len(self.sides)
        # (batch, classes, *positions), as PyTorch's losses take them, or (batch, *positions, ...)
        for dims in (tuple(range(y.ndim - axes, y.ndim)), tuple(range(1, 1 + axes))):
            if all(y.shape[dim] % side == 0 for dim, side in zip(dims, self.sides, strict=True)):
                return dims
        sides = " × ".join(map(str, self.sides))
        raise ValueError(
            f"{what} of shape {tuple(y.shape)} has positions, but its sides are no multiples of "
            f"the {sides} positions at which the state was cut. Choose sizes that are, a layer "
            f"with others, or dense=False if it has no positions."
        )
