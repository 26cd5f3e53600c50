"""The plans of a training run: a function of seed, rank and step."""

import hashlib
import operator
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex

import torch

from manifold_mixup import _autograd
from manifold_mixup._blend import Blend, Interpolate
from manifold_mixup._draw.beta import check_alpha, is_number, symmetric_beta
from manifold_mixup._draw.draws import Draws, one_lambda, uniform
from manifold_mixup._draw.pairs import Pairs, check_pairs
from manifold_mixup._draw.partners import permutation
from manifold_mixup._draw.plan import (
    PLAIN,
    check_batch,
    check_ways,
    draw_plan,
    needs_targets,
    targets_for,
)
from manifold_mixup._draw.prefetch import PrefetchedLambdas, PrefetchedSteps, StepDraws
from manifold_mixup._draw.remix import LabelRule, check_rule
from manifold_mixup._noise import Noise
from manifold_mixup._plan import MixPlan, unchecked

VERSION = 2
"""The stream of plans that new runs draw; runs that began with the first stream go on with it."""

Alpha = float | Callable[[int], float | None]


class Stream:
    """The plans of a training run, one per step: a function of (seed, rank, step) alone.

    Args:
        alpha: a number above 0, or a callable of the step that may return None for no mixing.
        p: probability that a batch is mixed.
        per_sample: draw one λ per example.
        seed: an integer shared by all ranks.
        pairs: who is mixed with whom.
        label: how much each target counts.
        blend: how a state is mixed with its partner.
        noise: noise on the mixed state.
    """

    def __init__(
        self,
        alpha: Alpha,
        *,
        p: float,
        per_sample: bool,
        seed: SupportsIndex,
        pairs: Pairs = "any",
        label: LabelRule | None = None,
        blend: Blend = PLAIN,
        noise: Noise | None = None,
    ) -> None:
        check_pairs(pairs)
        check_rule(label)
        check_ways(blend, noise, label)
        self.pairs, self.label, self.noise = pairs, label, noise
        self.blend = PLAIN if type(blend) is Interpolate else blend
        self.needs_targets = needs_targets(pairs, label)  # whether the plans depend on the targets
        if not callable(alpha):
            check_alpha(alpha)
        if not is_number(p) or not 0 <= p <= 1:
            raise ValueError(f"p must be a fraction of the batches, 0 to 1, but is {p!r}.")
        self.alpha = alpha
        self.p = p
        self.per_sample = per_sample
        if isinstance(seed, bool) or not isinstance(seed, SupportsIndex):
            raise TypeError(f"seed must be an integer, but is a {type(seed).__name__}.")
        self.seed = operator.index(seed)  # turns NumPy's integers into int
        self.step = 0
        self.rank: int | None = None  # whose plans are drawn, if not those of this process
        self.version = VERSION
        self._generator = torch.Generator("cpu")
        # Whether a plan needs nothing but the layer, λ and a permutation.
        self._is_plain = self.blend is PLAIN and noise is None and not self.needs_targets
        self._steps = PrefetchedSteps(partial(_draws_of_step, self._generator))
        self._prefetched = PrefetchedLambdas(symmetric_beta)

    def draw(
        self, layers: Sequence[str], batch: int, device: torch.device, y: Any = None
    ) -> MixPlan | None:
        """Draw the plan of the next step; None leaves the batch unmixed."""
        if batch < 1:
            check_batch(batch)
        alpha: float | None
        if callable(self.alpha):
            alpha = self.alpha(self.step)
            if alpha is not None:
                check_alpha(alpha)
        else:
            alpha = self.alpha
        plan = None
        if alpha is not None and self._is_plain and self.version != 1:
            plan = self._plain_plan(layers, batch, device, alpha)
        elif alpha is not None:
            gate, draws = self._draws()
            if gate < self.p:
                if self.needs_targets:
                    y = targets_for(self.pairs, self.label, y, batch)
                plan = draw_plan(
                    batch,
                    layers=layers,
                    alpha=alpha,
                    per_sample=self.per_sample,
                    pairs=self.pairs,
                    label=self.label,
                    blend=self.blend,
                    noise=self.noise,
                    y=y,
                    draws=draws,
                    device=device,
                )
        self.step += 1  # not if the targets were refused
        return plan

    def _plain_plan(
        self, layers: Sequence[str], batch: int, device: torch.device, alpha: float
    ) -> MixPlan | None:
        """Draw a plan as `draw_plan` does, from numbers that may have been drawn in advance."""
        seed, rank, step = self.seed, _rank() if self.rank is None else self.rank, self.step
        known = None if self.per_sample or callable(self.alpha) else alpha
        draws = self._steps.take(seed, rank, step, batch, known)
        if draws.gate >= self.p:
            return None
        lam, perm = draws.lam, draws.perm
        if self.per_sample:
            lam = self._prefetched.lam((seed, rank, step), alpha, batch)
        elif lam is None:
            lam = one_lambda(alpha, draws.uniforms)
        if _autograd.in_transform():  # the plan outlives it
            lam, perm = map(_autograd.without_gradients, (lam, perm))
        plan = unchecked(layers[int(draws.layer * len(layers))], lam, perm)
        return plan if device == perm.device else plan.to(device)

    def _draws(self) -> tuple[float, Draws]:
        """Return the number that decides whether to mix, and those of the plan.

        The former is always drawn, before the others, so that changing p changes nothing else.
        """
        rank = _rank() if self.rank is None else self.rank
        place = self.seed, rank, self.step
        if self.version == 1:
            from manifold_mixup._draw.first_stream import FirstDraws, step_generator

            generator = step_generator(*place)
            return uniform(generator), FirstDraws(generator)
        seed, gate, *numbers = _numbers_of_step(*place)
        self._generator.manual_seed(seed)
        draw_each = partial(self._prefetched.lam, place) if self.per_sample else None
        return gate, Draws(numbers, self._generator, draw_each)


def _rank() -> int:
    return torch.distributed.get_rank() if _HAS_RANKS and torch.distributed.is_initialized() else 0


_HAS_RANKS = torch.distributed.is_available()


def _draws_of_step(
    generator: torch.Generator, seed: int, rank: int, step: int, batch: int, alpha: float | None
) -> StepDraws:
    """Draw the numbers of a step; see `PrefetchedSteps`."""
    own_seed, gate, layer, *uniforms = _numbers_of_step(seed, rank, step)
    generator.manual_seed(own_seed)
    perm = permutation(batch, generator)
    lam = None if alpha is None else one_lambda(alpha, uniforms)
    return StepDraws(gate, layer, uniforms, lam, perm)


def _numbers_of_step(seed: int, rank: int, step: int) -> tuple[int, float, float, float, float]:
    """Return a number of 64 bits and four in [0, 1), a function of (seed, rank, step) alone.

    The three are hashed, so that streams never coincide systematically (seed 0 on rank 1 is not
    seed 1 on rank 0). The layer, one λ for the batch
    and whether to mix have all their bits from the hash; what a generator draws has 32.
    """
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=40).digest()
    number, gate, layer, u, v = struct.unpack("<5Q", digest)
    # The 53 high bits of each are the fraction of a float.
    return number, (gate >> 11) * _ULP, (layer >> 11) * _ULP, (u >> 11) * _ULP, (v >> 11) * _ULP


_ULP = 2.0**-53
