"""Mix a state as a plan says: all by λ, or each position by its weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from manifold_mixup import _mix
from manifold_mixup._batch_dim import BatchDim, mix_rows
from manifold_mixup._box import UNTOUCHED
from manifold_mixup._holes import Holes
from manifold_mixup._transport import Transport
from manifold_mixup._weigh import cut
from manifold_mixup._weigh.completion import PlanFields, share_of_targets
from manifold_mixup._weigh.place import (
    Place,
    dims_of,
    in_front,
    patches_of,
    refined,
    require_place,
    tokens_of,
)


def mix_state(
    x: Tensor,
    at: BatchDim | None,
    plan: PlanFields,
    valid: Tensor | None = None,
    place: Place | None = None,
    part: int = 0,
) -> Tensor:
    """Mix every example of a state with its partner, as a plan says.

    Args:
        x: the state.
        at: the dimension that holds the batch; None for dimension 0.
        plan: a completed plan.
        valid: the valid positions, ``(batch, time)``, if a padding mask is mixed too.
        place: where the state holds positions, if they have weights.
        part: number of the tensor, if a state has several, each with noise of its own.

    Raises:
        ValueError: the plan's weights do not fit the state.
    """
    if plan.weight is None:
        mixed = mix_rows(x, at, plan.lam, plan.perm, valid, repeats=plan.repeats)
    elif valid is not None:
        raise ValueError(
            "the plan weighs positions, but a padding mask is mixed too: sequences of different "
            "lengths have no common positions. Use a plan without weights where mask= is given."
        )
    else:
        mixed = mix_weighed(x, at, plan, place)
    return mixed if plan.noise is None else plan.noise.on(mixed, part)


def mix_weighed(x: Tensor, at: BatchDim | None, plan: PlanFields, place: Place | None) -> Tensor:
    """Mix every position of a state by its weight; one without positions by the label's.

    Args:
        x: the state.
        at: where it holds the batch; None for dimension 0.
        plan: a completed plan.
        place: where the state holds positions.

    Raises:
        ValueError: the weights do not fit the state.
    """
    batch, weight = plan.perm.shape[0], plan.weight
    place = require_place(place, x, at)
    if isinstance(weight, Transport):
        return _mix_aligned(x, at, plan, place, weight)
    assert isinstance(weight, Tensor | Holes)
    if at is None and cut.can_cut(x, plan.perm):
        box = _places(plan, x, place)
        if box is not None:
            return cut.cut(x, box, plan.perm, repeats=plan.repeats)
    own, inside = _spread(weight, x, place, at, plan.lam, share_of_targets(plan), batch)
    front = x if at is None else at.to_front(x, batch)
    mixed = _mix.apply(front, own, plan.perm, repeats=plan.repeats, inside=inside)
    return mixed if at is None else at.restore(mixed).contiguous()


def _places(plan: PlanFields, x: Tensor, place: Place) -> cut.Places | None:
    """Return the box that a state is cut in; None if it is not known, or of tokens."""
    ranges, weight, positions = plan.box, plan.weight, place.positions
    if ranges is None or positions.grid is not None or not isinstance(weight, Tensor):
        return None
    if weight.is_inference() or weight._version != UNTOUCHED:
        return None  # the user may have written into it
    if len(positions.dims) != len(ranges):
        return None
    box = [slice(None)] * x.ndim
    for dim, (low, high), coarse in zip(positions.dims, ranges, weight.shape[1:], strict=True):
        factor, left = divmod(x.shape[dim], coarse)
        if left:
            return None
        box[dim] = slice(low * factor, high * factor)
    return tuple(box)


def _mix_aligned(
    x: Tensor, at: BatchDim | None, plan: PlanFields, place: Place, transport: Transport
) -> Tensor:
    batch, first = plan.perm.shape[0], place.positions.first
    tokens = tokens_of(x, at, place, batch)
    patches = patches_of(tokens, place)
    count = patches.shape[1]
    if transport.shares.shape[1:] != (count, count):
        raise ValueError(
            f"the plan moves {transport.shares.shape[1]} positions, but the state of shape "
            f"{tuple(x.shape)} has {count}."
        )
    partners = patches.index_select(0, plan.perm.to(x.device))
    mixed = transport.mix(patches, partners, plan.lam)
    if count < tokens.shape[1]:
        others = torch.cat([tokens[:, :first], tokens[:, first + count :]], 1)
        others = _mix.apply(others, plan.lam, plan.perm, repeats=plan.repeats)
        mixed = torch.cat([others[:, :first], mixed, others[:, first:]], 1)
    front = x if at is None else at.to_front(x, batch)
    dims = [in_front(dim, at) for dim in place.positions.dims]
    order = [0, *dims, *(dim for dim in range(1, front.ndim) if dim not in dims)]
    shaped = mixed.view([front.shape[dim] for dim in order])
    back = shaped.permute([order.index(dim) for dim in range(front.ndim)])
    return (back if at is None else at.restore(back)).contiguous()


def _spread(
    weight: Tensor | Holes,
    x: Tensor,
    place: Place,
    at: BatchDim | None,
    lam: Tensor,
    label: Tensor,
    batch: int,
) -> tuple[Tensor, Tensor | None]:
    """Return the weight of an example's own share, and inside which features it applies.

    Both broadcast over the state, batch first; None is all features. So λ of each example needs no
    weight for each number of a state, and half types are not converted to weigh them.
    """
    shape = x.shape if at is None else at.front_shape(tuple(x.shape), batch)
    dims, others = dims_of(shape, place, at)
    sides = place.positions.sides(tuple(x.shape))
    inside = False
    if isinstance(weight, Holes):
        apart = lam.ndim > 0 or x.element_size() < 4
        inside = weight.soft and apart and place.positions.grid is None
        features, grid = [shape[dim] for dim in others], place.grid(tuple(x.shape))
        own = (
            weight.patches(features, grid, x.device)
            if inside
            else weight.own(lam.to(x.device), features, grid, x.device)
        )
    else:
        own = _over_features(weight.to(x.device), len(others), sides, x)
    own = refined(own, sides)
    if place.positions.grid is not None:
        own = _with_extra(own, len(sides), place.positions.first, shape[dims[0]], label)
    order = [0] * len(shape)
    for index, dim in enumerate([*others, *dims]):
        order[dim] = index + 1
    own = own.permute(order)
    return (lam, own) if inside else (own, None)


def _over_features(weight: Tensor, features: int, sides: Sequence[int], x: Tensor) -> Tensor:
    if weight.ndim != 1 + len(sides):
        raise ValueError(
            f"the plan has weights of {weight.ndim - 1} axes, but the state of shape "
            f"{tuple(x.shape)} has {len(sides)}."
        )
    return weight.view(len(weight), *(1 for _ in range(features)), *weight.shape[1:])


def _with_extra(own: Tensor, axes: int, first: int, tokens: int, label: Tensor) -> Tensor:
    """Return weights of all tokens: those that are no patches have the label's."""
    own = own.flatten(own.ndim - axes)
    last = tokens - first - own.shape[-1]
    if not first and not last:
        return own
    rows = max(len(own), len(label) if label.ndim else 1)
    own = own.to(torch.float32).expand(rows, *own.shape[1:])
    share = label.to(own.device, torch.float32).view(-1, *(1 for _ in own.shape[1:]))
    share = share.expand(rows, *own.shape[1:-1], 1)
    parts = [share.expand(*share.shape[:-1], count) for count in (first, last)]
    return torch.cat([parts[0], own, parts[1]], dim=-1)
