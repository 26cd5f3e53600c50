"""The plans of a training run: a function of seed, rank and step."""

import hashlib
import operator
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, SupportsIndex

import torch

from manifold_mixup._blend import Blend, Interpolate
from manifold_mixup._draw.beta import check_alpha, is_number, symmetric_beta
from manifold_mixup._draw.draws import Draws, uniform
from manifold_mixup._draw.pairs import Pairs, check_pairs
from manifold_mixup._draw.plan import (
    PLAIN,
    check_batch,
    check_ways,
    draw_plan,
    needs_targets,
    targets_for,
)
from manifold_mixup._draw.remix import LabelRule, check_rule
from manifold_mixup._noise import Noise
from manifold_mixup._plan import MixPlan

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
        if per_sample:
            # Few need it, and an import takes time.
            from manifold_mixup._draw.prefetch import PrefetchedLambdas

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
        if alpha is not None:
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
    distributed = torch.distributed
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_rank() if ready else 0


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
