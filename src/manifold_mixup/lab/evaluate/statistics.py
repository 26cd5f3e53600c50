"""Mean and standard deviation over seeds, and paired differences with their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with its sample standard deviation, which is ``nan`` for a single seed."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95 % interval, which is ``nan`` for a single pair."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def spread(values: Sequence[float]) -> Spread:
    """Summarise one metric over seeds.

    Examples:
        >>> spread([1.0, 2.0, 3.0])
        Spread(mean=2.0, std=1.0, n=3)
    """
    return Spread(fmean(values), stdev(values) if len(values) > 1 else math.nan, len(values))


def paired_difference(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Compare two methods over the same seeds.

    With ``d = values - base``, the interval is Student's, ``mean(d) ± t · std(d) / √n``, where
    ``t`` is the 97.5 % quantile at ``n - 1`` degrees of freedom.

    Raises:
        ValueError: the lengths differ.
    """
    d = spread([a - b for a, b in zip(values, base, strict=True)])
    half = t_quantile(d.n - 1) * d.std / math.sqrt(d.n) if d.n > 1 else math.nan
    return Difference(d.mean, d.mean - half, d.mean + half, d.n)


def t_quantile(freedom: int, *, level: float = 0.95) -> float:
    """Return the ``t`` with ``P(|T| ≤ t) = level`` for Student's distribution.

    Examples:
        >>> round(t_quantile(4), 6)
        2.776445
    """
    return float(stdtrit(freedom, (1 + level) / 2))
