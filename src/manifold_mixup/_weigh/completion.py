"""What a plan means for a state, if it depends on the state how it is mixed."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._blend import SimilarityKernel
from manifold_mixup._box import Box, Ranges
from manifold_mixup._holes import Holes
from manifold_mixup._noise import DrawnNoise
from manifold_mixup._plan import MixPlan, Weight, mean_weight, unchecked
from manifold_mixup._transport import Aligned, Transport
from manifold_mixup._weigh.place import Place, features_of, patches_of, require_place, tokens_of
from manifold_mixup._weigh.similarity import share_of_pairs


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
        tokens = patches_of(tokens_of(x.detach(), at, place, batch), place)
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
    holes = weight.patches(features_of(shape, place, at), grid, x.device)
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
