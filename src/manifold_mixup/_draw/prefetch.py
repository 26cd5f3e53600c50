"""A λ for each example, drawn for several steps at once.

Most of the time of a draw is the calls of its operators, however many numbers they draw.
"""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

from manifold_mixup import _autograd

_Key = tuple[int, int, int, float, int]

_DRAWN_AT_ONCE = 1024
"""How many λ are drawn at a time."""

_KEPT = 8
"""How many draws are kept: the ways of mixing and the layers may have an α each."""


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
    return _autograd.in_wrapping_mode()
