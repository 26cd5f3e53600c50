"""Mix a state as a plan says: all by λ, or each position by its weight."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from manifold_mixup import _cut, _mix
from manifold_mixup._batch_dim import BatchDim, mix_rows
from manifold_mixup._blend import SimilarityKernel
from manifold_mixup._box import AXES, UNTOUCHED, Box, Ranges
from manifold_mixup._holes import Holes
from manifold_mixup._noise import DrawnNoise
from manifold_mixup._plan import MixPlan, Weight, mean_weight, unchecked
from manifold_mixup._positions import Positions
from manifold_mixup._similarity import share_of_pairs
from manifold_mixup._transport import Aligned, Transport


@dataclass(frozen=True)
class Place:
    """Where a tensor holds positions, and how they follow the grid that is cut.

    Attributes:
        positions: its positions.
        factor: on each axis, how many of its positions are one of the grid.
        several: whether other tensors with positions are mixed with it.
    """

    positions: Positions
    factor: tuple[int, ...]
    several: bool = False

    def grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sides of the grid for a tensor of this shape.

        Raises:
            ValueError: its sides are no multiples of the factor.
        """
        sides = self.positions.sides(shape)
        pairs = list(zip(sides, self.factor, strict=True))
        if any(side % factor for side, factor in pairs):
            raise ValueError(
                f"a state with sides {sides} is mixed with one that is coarser by the factors "
                f"{self.factor}, which do not divide its sides. Choose sizes of the input for "
                f"which they do, or another layer."
            )
        return tuple(side // factor for side, factor in pairs)


class PlanFields(Protocol):
    """How a state is mixed: a plan, or what compiled code knows of one."""

    @property
    def lam(self) -> Tensor: ...
    @property
    def perm(self) -> Tensor: ...
    @property
    def weight(self) -> Weight | None: ...
    @property
    def label(self) -> Tensor | None: ...
    @property
    def noise(self) -> DrawnNoise | None: ...
    @property
    def repeats(self) -> bool: ...
    @property
    def box(self) -> Ranges | None: ...


@dataclass(frozen=True)
class Completion:
    """What a plan means for a state."""

    lam: Tensor
    weight: Tensor | Holes | Transport | None
    label: Tensor | None
    box: Ranges | None = None


def needs_completion(plan: PlanFields) -> bool:
    """Return whether it depends on the state how it is mixed."""
    weight = plan.weight
    return isinstance(weight, Box | SimilarityKernel | Aligned) or (
        isinstance(weight, Holes) and plan.label is None
    )


def completion_for(
    plan: PlanFields, x: Tensor, at: BatchDim | None, place: Place | None
) -> Completion:
    """Return what a plan means for a state.

    Args:
        plan: the plan.
        x: the state.
        at: where it holds the batch; None for dimension 0.
        place: where it holds positions.

    Raises:
        ValueError: it has no positions, or no such ones.
    """
    weight, batch = plan.weight, plan.perm.shape[0]
    if isinstance(weight, SimilarityKernel):
        front = x if at is None else at.to_front(x, batch)
        perm = plan.perm.to(x.device)
        lam = share_of_pairs(weight, plan.lam.to(x.device), front, perm)
        return Completion(lam, None, plan.label)
    place = require_place(place, x, at)
    if isinstance(weight, Aligned):
        # a recomputation does not repeat this
        tokens = _patches(_tokens(x.detach(), at, place, batch), place)
        between = weight.between(tokens, tokens[plan.perm.to(x.device)])
        return Completion(plan.lam, between, plan.label)
    if isinstance(weight, Box):
        own, share, box = weight.weigh(place.grid(x.shape))
        return Completion(plan.lam, own, share if plan.label is None else plan.label, box)
    assert isinstance(weight, Holes)
    compiling = torch.compiler.is_compiling()  # sides may be symbolic
    grid = place.grid(tuple(x.shape))
    weight = replace(
        weight,
        together=weight.together or place.several,
        sides=None if compiling else tuple(map(int, grid)),
    )
    shape = x.shape if at is None else at.front_shape(tuple(x.shape), batch)
    holes = weight.patches(_features(shape, place, at), grid, x.device)
    share = mean_weight(holes)
    label = 1 - share * (1 - plan.lam.to(x.device)) if weight.soft else 1 - share
    drawn = holes if holes.ndim == 2 + len(grid) else holes.reshape(1, -1, *grid)
    return Completion(plan.lam, replace(weight, drawn=drawn), label)


def share_of_targets(plan: PlanFields) -> Tensor:
    """Return the share that every target keeps, by a completed plan."""
    if plan.label is not None:
        return plan.label
    return mean_weight(plan.weight) if isinstance(plan.weight, Tensor) else plan.lam


def completed(plan: MixPlan, completion: Completion) -> MixPlan:
    """Return a plan completed by what it means for the state of its layer."""
    return unchecked(
        plan.layer,
        completion.lam,
        plan.perm,
        weight=completion.weight,
        label=completion.label,
        noise=plan.noise,
        repeats=plan.repeats,
        box=completion.box,
    )


def require_place(place: Place | None, x: Tensor, at: BatchDim | None) -> Place:
    """Return the place.

    Raises:
        ValueError: it is not known, or the state has no positions, or one of them is the batch.
    """
    if place is None or not place.positions.dims:
        raise ValueError(
            f"the plan weighs positions, but of the state of shape {tuple(x.shape)} it is not "
            f"known which dimensions those are. Attach with blend=Cut(dims=...), or choose a layer "
            f"with positions."
        )
    batch = 0 if at is None else at.dim
    if batch in place.positions.dims:
        raise ValueError(
            f"dims={place.positions.dims} are said to be positions, but dimension {batch} of the "
            f"state of shape {tuple(x.shape)} holds the batch. Name the others in Cut(dims=...)."
        )
    return place


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
    if at is None and _cut.can_cut(x, plan.perm):
        box = _places(plan, x, place)
        if box is not None:
            return _cut.cut(x, box, plan.perm, repeats=plan.repeats)
    own, inside = _spread(weight, x, place, at, plan.lam, share_of_targets(plan), batch)
    front = x if at is None else at.to_front(x, batch)
    mixed = _mix.apply(front, own, plan.perm, repeats=plan.repeats, inside=inside)
    return mixed if at is None else at.restore(mixed).contiguous()


def _places(plan: PlanFields, x: Tensor, place: Place) -> _cut.Places | None:
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


def _tokens(x: Tensor, at: BatchDim | None, place: Place, batch: int) -> Tensor:
    """Return a state as ``(batch, positions, features)``, class tokens included."""
    front = x if at is None else at.to_front(x, batch)
    dims = [_in_front(dim, at) for dim in place.positions.dims]
    others = [dim for dim in range(1, front.ndim) if dim not in dims]
    moved = front.permute(0, *dims, *others)
    return moved.reshape(batch, math.prod(moved.shape[1 : 1 + len(dims)]), -1)


def _patches(tokens: Tensor, place: Place) -> Tensor:
    """Return the tokens that are positions, without class tokens and registers."""
    grid, first = place.positions.grid, place.positions.first
    return tokens if grid is None else tokens[:, first : first + math.prod(grid)]


def _mix_aligned(
    x: Tensor, at: BatchDim | None, plan: PlanFields, place: Place, transport: Transport
) -> Tensor:
    batch, first = plan.perm.shape[0], place.positions.first
    tokens = _tokens(x, at, place, batch)
    patches = _patches(tokens, place)
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
    dims = [_in_front(dim, at) for dim in place.positions.dims]
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
    dims, others = _dims(shape, place, at)
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


def _dims(shape: Sequence[int], place: Place, at: BatchDim | None) -> tuple[list[int], list[int]]:
    """Return which dimensions of a state are positions, and which are features, batch first."""
    dims = [_in_front(dim, at) for dim in place.positions.dims]
    return dims, [dim for dim in range(1, len(shape)) if dim not in dims]


def _features(shape: Sequence[int], place: Place, at: BatchDim | None) -> list[int]:
    return [shape[dim] for dim in _dims(shape, place, at)[1]]


def _in_front(dim: int, at: BatchDim | None) -> int:
    """Return where a dimension is once the batch is in front."""
    return dim if at is None or dim > at.dim else dim + 1


def refined(own: Tensor, sides: Sequence[int]) -> Tensor:
    """Repeat weights of a coarser grid.

    Raises:
        ValueError: the sides are no multiples of the grid's.
    """
    first = own.ndim - len(sides)
    grid = own.shape[first:]
    for axis, (side, coarse) in enumerate(zip(sides, grid, strict=True)):
        if side % coarse:
            raise ValueError(
                f"the plan's weights have sides {tuple(grid)}, which do not divide those of the "
                f"state, {tuple(sides)}."
            )
        if side != coarse:
            own = own.repeat_interleave(side // coarse, first + axis)
    return own


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


def least_grid(sides: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the coarsest of several grids; None if it does not divide the others."""
    least = tuple(min(of) for of in zip(*sides, strict=True))
    divides = all(
        side % coarse == 0 for of in sides for side, coarse in zip(of, least, strict=True)
    )
    return least if divides and math.prod(least) else None


def mix(
    x: Tensor, plan: MixPlan, batch_dim: int = 0, *, dims: int | Sequence[int] | None = None
) -> Tensor:
    """Mix every row of a batch with its partner.

    Row ``i`` of the result is ``lam[i] * x[i] + (1 - lam[i]) * x[perm[i]]`` (Mix_λ of the paper,
    section 2), computed in at least float32 and rounded once to the dtype of ``x``.

    Args:
        x: hidden state, ``(batch, *features)``, floating point or complex. It is not modified.
        plan: the coefficients and the pairs; its layer is ignored.
        batch_dim: the dimension of ``x`` that holds the batch.
        dims: the dimensions of ``x`` that are positions, if the plan weighs positions; (2, 3) of
            ``(batch, channels, height, width)``.

    Returns:
        The mixed state, with the shape, dtype, device and memory format of ``x``. It can be
        differentiated any number of times.

    Raises:
        TypeError: ``x`` is neither floating point nor complex.
        ValueError: that dimension of ``x`` is not the batch of the plan, or the plan weighs
            positions and does not fit ``dims``.

    Examples:
        >>> import torch
        >>> from manifold_mixup import MixPlan
        >>> plan = MixPlan("fc", lam=torch.tensor(0.75), perm=torch.tensor([1, 0]))
        >>> mix(torch.tensor([[0.0], [10.0]]), plan)
        tensor([[2.5000],
                [7.5000]])
    """
    if not _mix.is_continuous(x):
        raise TypeError(
            f"only floating point states can be mixed, but x is {x.dtype}. For token ids, mix the "
            f"output of the embedding layer."
        )
    if plan.weight is not None or plan.noise is not None:
        return _mix_by_plan(x, plan, batch_dim, dims)
    if 0 < batch_dim < x.ndim:
        return mix(x.movedim(batch_dim, 0), plan).movedim(0, batch_dim).contiguous()
    if x.ndim == 0 or x.shape[0] != plan.perm.shape[0]:
        raise ValueError(
            f"the plan pairs {plan.perm.shape[0]} examples but x has shape {tuple(x.shape)}. Is "
            f"dimension 0 of this tensor the batch?"
        )
    return _mix.apply(x, plan.lam, plan.perm, repeats=plan.repeats)


def _mix_by_plan(
    x: Tensor, plan: MixPlan, batch_dim: int, dims: int | Sequence[int] | None
) -> Tensor:
    """Mix a state by all that a plan says; see `mix`."""
    at = BatchDim(batch_dim) if 0 < batch_dim < x.ndim else None
    if not (at or BatchDim()).fits(tuple(x.shape), plan.batch):
        raise ValueError(
            f"the plan pairs {plan.batch} examples but x has shape {tuple(x.shape)}. Is dimension "
            f"{batch_dim} of this tensor the batch?"
        )
    place = None
    if dims is not None:
        dims = (dims,) if isinstance(dims, int) else tuple(dims)
        others = all(0 <= dim < x.ndim and dim != (at.dim if at else 0) for dim in dims)
        if not others or not 1 <= len(set(dims)) == len(dims) <= AXES:
            raise ValueError(
                f"dims must be one to three different dimensions of x other than the batch, but "
                f"is {dims}, and x has shape {tuple(x.shape)}."
            )
        place = Place(Positions(dims), (1,) * len(dims))
    elif plan.weight is not None and not isinstance(plan.weight, SimilarityKernel):
        raise ValueError(
            f"the plan weighs the positions of x, of shape {tuple(x.shape)}: pass dims=, the "
            f"dimensions that are positions, such as (2, 3)."
        )
    if needs_completion(plan):
        plan = completed(plan, completion_for(plan, x, at, place))
    return mix_state(x, at, plan, None, place)
