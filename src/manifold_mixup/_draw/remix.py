"""How much a target counts: rules by which its share depends on the targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._mix import is_continuous

LabelRule = Callable[[Tensor, Any, Any], Tensor]
"""Maps λ of each row, the targets and the partners' targets to the share of the own target."""


@dataclass(frozen=True)
class Remix:
    """The label goes to the rarer class where one is much rarer (Remix, Chou et al., 2020, Eq. 5).

    The own target's share is 0 where its class is ``kappa`` times as frequent as the partner's and
    λ is below ``tau``; 1 where it is ``kappa`` times rarer and 1 - λ is below ``tau``; otherwise λ.

    Args:
        counts: number of training examples of each class, all above 0.
        kappa: how much more frequent, above 1.
        tau: how small a share is overruled, 0 to 1.

    Raises:
        ValueError: an argument is out of range.
    """

    counts: Sequence[int]
    kappa: float = 3.0
    tau: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "counts", tuple(int(count) for count in self.counts))
        if len(self.counts) < 2 or min(self.counts) < 1:
            raise ValueError(
                f"counts must hold the number of examples of each class, at least 1 of at least "
                f"two classes, but is {list(self.counts)}."
            )
        if not self.kappa > 1:
            raise ValueError(f"kappa must be above 1, but is {self.kappa!r}.")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"tau must be between 0 and 1, but is {self.tau!r}.")

    def __repr__(self) -> str:
        return f"Remix({len(self.counts)} classes, kappa={self.kappa}, tau={self.tau})"

    def __call__(self, lam: Tensor, own: Tensor, partner: Tensor) -> Tensor:
        """Return the share of the own target, float32 ``(batch,)``.

        Args:
            lam: λ of each row.
            own: the classes, ``(batch,)``.
            partner: those of the partners.

        Raises:
            ValueError: the targets are no classes that ``counts`` has.
        """
        if not isinstance(own, Tensor) or own.ndim != 1 or is_continuous(own):
            raise ValueError(
                "Remix needs classes, integers of shape (batch,). For probabilities, "
                "pass mixup.batch(y.argmax(1))."
            )
        least, most = (int(own.min()), int(own.max())) if len(own) else (0, 0)
        if least < 0 or most >= len(self.counts):
            raise ValueError(
                f"Remix knows the counts of classes 0 to {len(self.counts) - 1}, but the targets "
                f"hold {least} to {most}."
            )
        counts = torch.tensor(self.counts, dtype=torch.float64)
        ratio = counts[own.long()] / counts[partner.long()]
        share = torch.where((ratio >= self.kappa) & (lam < self.tau), 0.0, lam)
        return torch.where((ratio <= 1 / self.kappa) & (1 - lam < self.tau), 1.0, share)


def check_rule(label: object) -> None:
    """Raise TypeError unless ``label`` is a rule or None."""
    if label is not None and not callable(label):
        raise TypeError(
            f"label must be Remix(counts) or a function of λ, the targets and the partners' "
            f"targets, but is {label!r}."
        )
