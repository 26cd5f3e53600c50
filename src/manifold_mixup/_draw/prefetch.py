"""What plans are made of, drawn for several steps at once.

Most of the time of a draw is the calls of its operators, however many numbers they draw. They also
take longer in the middle of a training step, whose code displaces theirs from the processor's
caches.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manifold_mixup import _autograd

_Key = tuple[int, int, int, float, int]

_DRAWN_AT_ONCE = 1024
"""How many λ are drawn at a time."""

_KEPT = 8
"""How many draws are kept: the ways of mixing and the layers may have an α each."""

_STEPS, _ROWS = 16, 2**14
"""How many steps, and how many partners, are drawn at a time."""


class StepDraws:
    """The numbers of one step.

    Args:
        gate: in [0, 1); the batch is mixed if it lies below the probability of that.
        layer: in [0, 1); it chooses the layer.
        uniforms: two numbers in [0, 1), which one λ for the batch is made of.
        lam: that λ, ``()``; None if it is not known in advance.
        perm: the partners, int64 ``(batch,)``.
    """

    __slots__ = ("gate", "lam", "layer", "perm", "uniforms")

    def __init__(
        self,
        gate: float,
        layer: float,
        uniforms: Sequence[float],
        lam: Tensor | None,
        perm: Tensor,
    ) -> None:
        self.gate, self.layer, self.uniforms = gate, layer, uniforms
        self.lam, self.perm = lam, perm


class PrefetchedSteps:
    """The numbers of the next steps, each a function of (seed, rank, step) and what else it is for.

    As long as a run goes on with batches of one size, twice as many steps are drawn each time.

    Args:
        draw: draws the numbers of a step: from seed, rank, step, the number of examples, and α.
    """

    def __init__(self, draw: Callable[[int, int, int, int, float | None], StepDraws]) -> None:
        self._draw = draw
        self._of: object = None  # what those that were drawn are for
        self._next = 0  # the step of the first of them
        self._drawn: list[StepDraws] = []  # the last is the next
        self._steps = 1  # how many are drawn next

    def take(self, seed: int, rank: int, step: int, batch: int, alpha: float | None) -> StepDraws:
        """Return the numbers of a step. A change of its tensors changes no other step.

        Args:
            seed: the seed of the run.
            rank: the number of the process.
            step: the step.
            batch: the number of examples.
            alpha: both parameters of the Beta distribution; None if they may change.
        """
        if _must_not_be_kept():
            return self._draw(seed, rank, step, batch, alpha)
        of = seed, rank, batch, alpha
        if step != self._next or of != self._of:
            self._of, self._drawn, self._steps = of, [], 1
        if not self._drawn:
            steps = reversed(range(step, step + self._steps))
            self._drawn = [self._draw(seed, rank, each, batch, alpha) for each in steps]
            self._steps = min(2 * self._steps, _STEPS, max(1, _ROWS // batch))
        self._next = step + 1
        return self._drawn.pop()


class PrefetchedLambdas:
    """The λ of each example, a function of (seed, rank, step), α and the number of examples alone.

    Steps are drawn together in groups that begin at a multiple of their size, so a run that is
    resumed in the middle of a group has the λ that it would have had.

    Args:
        beta: draws from Beta(α, α): from α, how many, and a generator.
    """

    def __init__(self, beta: Callable[[float, int, torch.Generator], Tensor]) -> None:
        self._beta = beta
        self._drawn: dict[_Key, list[Tensor | None]] = {}

    def lam(self, place: tuple[int, int, int], alpha: float, batch: int) -> Tensor:
        """Return λ, float32 ``(batch,)``. A change of it changes no other draw.

        Args:
            place: seed, rank and step.
            alpha: both parameters of the Beta distribution.
            batch: the number of examples.
        """
        seed, rank, step = place
        steps = max(1, _DRAWN_AT_ONCE // batch)
        row = step % steps
        key = (seed, rank, step - row, alpha, batch)
        if steps == 1 or _must_not_be_kept():
            return self._draw(*key, steps)[row]
        drawn = self._drawn.get(key)
        if drawn is None or drawn[row] is None:  # a run may go back to a step
            if len(self._drawn) == _KEPT:
                self._drawn.clear()
            drawn = self._drawn[key] = [*self._draw(*key, steps)]
        lam, drawn[row] = drawn[row], None
        assert lam is not None
        return lam

    def _draw(
        self, seed: int, rank: int, first: int, alpha: float, batch: int, steps: int
    ) -> tuple[Tensor, ...]:
        """Draw λ for some steps from the ``first``.

        The name of the generator has one part more than that of a step's own, so that no λ comes
        from the numbers that a permutation comes from.
        """
        name = f"{seed}/{rank}/{first}/{batch}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest))
        lam = self._beta(alpha, steps * batch, generator).float()
        return lam.view(steps, batch).unbind()


def _must_not_be_kept() -> bool:
    """Return whether tensors made now cannot be used later, or earlier ones not now."""
    if torch.is_inference_mode_enabled() or _autograd.in_transform():
        return True
    return _autograd.count_of_modes() > 0 and _autograd.in_wrapping_mode()
