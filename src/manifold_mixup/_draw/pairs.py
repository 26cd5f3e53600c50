"""Who is mixed with whom: rules by which partners depend on the targets."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from manifold_mixup._mix import is_continuous


@dataclass(frozen=True)
class Near:
    """Partners that are near in the label (C-Mixup, Yao et al., 2022, Eq. 6).

    Row ``i`` takes row ``j`` with a probability proportional to ``exp(-|y_i - y_j|² / 2s²)``, with
    replacement, itself included. Regression targets ``(batch,)`` or ``(batch, numbers)``.

    Args:
        bandwidth: ``s``, in the units of the targets, above 0. The smaller, the nearer.

    Raises:
        ValueError: the bandwidth is not above 0 and finite.

    Examples:
        >>> Near(1.75)
        Near(bandwidth=1.75)
    """

    bandwidth: float

    def __post_init__(self) -> None:
        given: object = self.bandwidth
        number = isinstance(given, Real) and not isinstance(given, bool)
        if not number or not 0 < self.bandwidth < math.inf:
            raise ValueError(f"bandwidth must be above 0 and finite, but is {self.bandwidth!r}.")

    def weights(self, y: Tensor) -> Tensor:
        """Return the weight of each row ``j`` for each row ``i``, float64 ``(batch, batch)``."""
        y = y.double().flatten(1) if y.ndim > 1 else y.double()[:, None]
        # Not by cdist, whose products lose what near targets differ in.
        squared = torch.zeros(len(y), len(y), dtype=y.dtype)
        for column in y.unbind(1):
            squared += (column[:, None] - column).square()
        return torch.exp(-squared / (2 * self.bandwidth**2))


Function = Callable[[Any, torch.Generator], Tensor]
"""Maps the targets and a generator to the partners, int64 ``(batch,)``."""
Pairs = Literal["any", "same_class", "other_class"] | Near | Function
_NAMES = ("any", "same_class", "other_class")


def check_pairs(pairs: Pairs) -> None:
    """Raise unless ``pairs`` is a rule.

    Raises:
        TypeError: it is neither a name, a `Near` nor a function.
        ValueError: there is no rule of that name.
    """
    if isinstance(pairs, str):
        if pairs not in _NAMES:
            raise ValueError(
                f"pairs must be one of {', '.join(map(repr, _NAMES))}, Near(bandwidth) or a "
                f"function, but is {pairs!r}."
            )
    elif not callable(pairs) and not isinstance(pairs, Near):
        raise TypeError(f"pairs must be a name, Near(bandwidth) or a function, but is {pairs!r}.")


def check_targets(pairs: Pairs, y: Any, batch: int) -> None:
    """Raise unless partners can be chosen by these targets.

    Raises:
        TypeError: they are of another kind.
        ValueError: they hold no values that can be compared.
    """
    if pairs == "any" or not isinstance(pairs, str | Near):
        return
    if not isinstance(y, Tensor):
        raise TypeError(f"pairs={pairs!r} needs a tensor of targets, but y is a {_kind(y)}.")
    if isinstance(pairs, Near):
        if not is_continuous(y) or y.is_complex() or not bool(y.isfinite().all()):
            raise ValueError(
                f"pairs={pairs!r} needs finite regression targets, but y holds {y.dtype}"
                f"{'' if y.isfinite().all() else ' that are not finite'}. For classes, use "
                f"pairs='same_class' or 'other_class'."
            )
    elif y.shape != (batch,) or is_continuous(y):
        raise TypeError(
            f"pairs={pairs!r} needs classes, integers of shape ({batch},), but y is {y.dtype} of "
            f"shape {tuple(y.shape)}. For probabilities, pass y.argmax(1)."
        )


def _kind(value: Any) -> str:
    return type(value).__name__


def check_partners(partners: Any, batch: int) -> Tensor:
    """Return what a user's function returned, on the CPU, if it holds a row for each row.

    Raises:
        TypeError: it is no tensor of int64.
        ValueError: its shape is another, or it holds what is no row.
    """
    if not isinstance(partners, Tensor) or partners.dtype != torch.int64:
        seen = partners.dtype if isinstance(partners, Tensor) else _kind(partners)
        raise TypeError(f"the function pairs must return partners as torch.int64, but gave {seen}.")
    found: Tensor = partners.detach().cpu()
    fits = found.shape == (batch,) and bool(((found >= 0) & (found < batch)).all())
    if not fits:
        raise ValueError(
            f"the function pairs must return a row, 0 to {batch - 1}, for each of the {batch} "
            f"examples, but gave {found.tolist() if batch <= 8 else tuple(found.shape)}."
        )
    return found
