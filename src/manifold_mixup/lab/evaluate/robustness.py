"""Which examples survive APGD and Square, and whether the gradients that APGD follows are masked.

An attack gives an upper bound of the robust accuracy, and a poor one if the gradients lead nowhere
(Athalye, Carlini and Wagner, "Obfuscated gradients give a false sense of security", 2018; Carlini
et al., "On evaluating adversarial robustness", 2019). Three checks are made. Gradients must not be
zero; Square, which sees logits alone, must not break more than APGD; and nothing may survive if
the change of an input has no bound.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from scipy.special import bdtr
from torch import Tensor, nn

from manifold_mixup.lab.evaluate.autoattack import (
    Bounds,
    Budget,
    apgd,
    bounds_of,
    input_gradients,
    square,
)
from manifold_mixup.lab.evaluate.inference import logits
from manifold_mixup.lab.evaluate.statistics import binomial_interval

SHARES = (0.0, 0.25, 0.5, 1.0, 2.0)
"""The points of the curve, in multiples of ε."""
_RARE = 0.05  # how often Square may break more by chance than as APGD before it is said


@dataclass(frozen=True)
class Robustness:
    """Attacks on a model in eval mode, each made once and only if its result is asked for.

    Attributes:
        model: returns logits, ``(n, classes)``.
        x: inputs, ``(n, …)``, floating point, on the model's device.
        y: their labels, there too.
        eps: the size ε of the attacks, in the units of ``x``.
        bounds: the least and the greatest value of the data, ``None`` if it has no bounds.
        budget: what the attacks may spend.
        seed: the seed of the attacks.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    bounds: Bounds | None
    budget: Budget
    seed: int = 0

    @cached_property
    def right(self) -> Tensor:
        """Whether each example is predicted right without an attack."""
        return self._survives(self.x, self.y)

    @cached_property
    def no_gradient(self) -> str:
        """Why the model has no gradients, or "" if it has."""
        try:
            input_gradients(self.model, self.x[:1], self.y[:1])
        except ValueError as error:
            return str(error)
        return ""

    @cached_property
    def blind(self) -> Tensor:
        """Whether each example is predicted right but has a gradient of zero or NaN.

        At such an example a white-box attack knows no direction.
        """
        if self.no_gradient:
            return self.right
        slope = input_gradients(self.model, self.x, self.y).flatten(1)
        return self.right & ((slope == 0).all(1) | ~slope.isfinite().all(1))

    @cached_property
    def by_apgd(self) -> Tensor:
        """Whether each example survives APGD with ε."""
        return self._apgd(self.right, self.eps, restarts=self.budget.restarts)

    @cached_property
    def by_square(self) -> Tensor:
        """Whether each example survives Square with ε."""
        left = self.right.clone()
        if left.any():
            x, y = self.x[left], self.y[left]
            bounds = self._bounds(self.eps)
            attacked = square(
                self.model,
                x,
                y,
                eps=self.eps,
                bounds=bounds,
                queries=self.budget.queries,
                seed=self.seed,
            )
            left[self.right] = self._survives(attacked, y)
        return left

    @cached_property
    def at_shares(self) -> list[Tensor]:
        """Whether each example survives APGD at rising ε, see `SHARES`; one start for other ε.

        An example that is broken at some ε is broken at every greater one.
        """
        left, survivors = self.right, []
        for share in SHARES:
            if share == 1:
                left = left & self.by_apgd
            elif share:
                left = self._apgd(left, share * self.eps)
            survivors.append(left)
        return survivors

    @cached_property
    def unbounded(self) -> Tensor:
        """Whether each example survives APGD over the whole range of the data."""
        free = self.bounds or (float(self.x.min()), float(self.x.max()))
        return self._apgd(self.by_apgd, max(free[1] - free[0], self.eps))

    def row(self, survives: Tensor, *, white: bool) -> dict[str, Any]:
        """Return the accuracy in percent with its 95 % interval.

        If the attack follows gradients and a survivor has none, there is no accuracy: the row has a
        note.

        Args:
            survives: whether each example survives.
            white: whether the attack needs gradients.
        """
        count, images = int(survives.sum()), len(survives)
        counts: dict[str, Any] = {"survived": count, "images": images}
        if white and (self.blind & survives).any():
            return {"accuracy": None, "low": None, "high": None, **counts, "note": self._says_blind}
        low, high = binomial_interval(count, images)
        return {"accuracy": 100 * count / images, "low": 100 * low, "high": 100 * high, **counts}

    @property
    def _says_blind(self) -> str:
        if self.no_gradient:
            return f"APGD: {self.no_gradient}"
        return (
            f"APGD: the gradients are zero or NaN on {int(self.blind.sum())} of the "
            f"{int(self.right.sum())} images that are predicted right, so the white-box figure "
            f"says nothing. It is left out."
        )

    def compared(self) -> dict[str, Any]:
        """Return how many examples one of the attacks breaks and the other does not.

        There is a note if Square breaks more, and so clearly that it would happen in less than 5 %
        of cases if each such example were as likely to be broken by one as by the other (the exact
        sign test, one-sided).
        """
        only_square = int((self.by_apgd & ~self.by_square).sum())
        only_apgd = int((self.by_square & ~self.by_apgd).sum())
        row: dict[str, Any] = {"only_apgd": only_apgd, "only_square": only_square}
        # P(at most only_apgd of all of them), each with probability 1/2.
        chance = float(bdtr(only_apgd, only_square + only_apgd, 0.5))
        if only_square > only_apgd and chance < _RARE:
            row["note"] = (
                f"Square breaks {only_square} images that survive APGD, and APGD {only_apgd} that "
                f"survive Square. An attack that sees logits alone should not be the stronger one: "
                f"gradients are masked, and the model is less robust than APGD says."
            )
        return row

    def free_row(self) -> dict[str, Any]:
        """Return the accuracy without a bound, with a note if anything survives."""
        row = self.row(self.unbounded, white=True)
        if row["survived"] and "note" not in row:
            row["note"] = (
                f"APGD without a bound: {row['survived']} of {row['images']} images survive, "
                f"though any change is allowed. Gradients are masked, or the model ignores its "
                f"inputs: do not read the other figures as robustness."
            )
        return row

    def _apgd(self, among: Tensor, eps: float, *, restarts: int = 1) -> Tensor:
        """Return which of the marked examples survive; without gradients, all of them."""
        left = among.clone()
        if self.no_gradient or not left.any():
            return left
        x, y = self.x[left], self.y[left]
        attacked = apgd(
            self.model,
            x,
            y,
            eps=eps,
            bounds=self._bounds(eps),
            steps=self.budget.steps,
            restarts=restarts,
            seed=self.seed,
        )
        left[among] = self._survives(attacked, y)
        return left

    def _bounds(self, eps: float) -> Bounds:
        return bounds_of(self.x, self.bounds, reach=eps)

    def _survives(self, x: Tensor, y: Tensor) -> Tensor:
        # Cloned out of inference mode, so that it can be written to.
        return (logits(self.model, x).argmax(1) == y).clone()


def sample_rows(count: int, images: int, *, generator: torch.Generator) -> Tensor:
    """Return the rows of a random subset, in ascending order; all if there are not more."""
    return torch.randperm(count, generator=generator)[:images].sort().values
