"""Mean and standard deviation over seeds, paired differences, their intervals, tests and power."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean, stdev

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy.special import betaincinv, chdtri, ndtr, stdtr, stdtrit

_NODES, _WEIGHTS = leggauss(100)
_HALVINGS = 40
_ROUNDING = 1e-12  # of the values; equal differences of floats may differ by this much


@dataclass(frozen=True)
class Spread:
    """A mean over seeds with its sample standard deviation.

    The deviation is ``nan`` for a single seed, and if a value is not finite.
    """

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Difference:
    """A mean paired difference with its 95 % interval.

    The interval is ``nan`` for a single pair, and if all pairs differ alike.
    """

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
    known = len(values) > 1 and all(map(math.isfinite, values))
    return Spread(fmean(values), stdev(values) if known else math.nan, len(values))


def paired_difference(values: Sequence[float], base: Sequence[float]) -> Difference:
    """Compare two methods over the same seeds.

    With ``d = values - base``, the interval is Student's, ``mean(d) ± t · std(d) / √n``, where
    ``t`` is the 97.5 % quantile at ``n - 1`` degrees of freedom. If all ``d`` are equal, as happens
    to error rates of few examples, the interval would have no width, and certainty that is not
    there; it is ``nan``.

    Raises:
        ValueError: the lengths differ.
    """
    d = spread([a - b for a, b in zip(values, base, strict=True)])
    size = max(map(abs, (*values, *base)), default=0.0)
    known = d.n > 1 and d.std > _ROUNDING * size
    half = t_quantile(d.n - 1) * d.std / math.sqrt(d.n) if known else math.nan
    return Difference(d.mean, d.mean - half, d.mean + half, d.n)


def paired_p(values: Sequence[float], base: Sequence[float]) -> float:
    """Return the p-value of the two-sided paired t test that two methods have the same mean.

    It is ``nan`` for a single pair, and if a value is not finite. If all differences are equal, it
    is 0, or 1 if they are 0.

    Raises:
        ValueError: the lengths differ.

    Examples:
        >>> round(paired_p([3.0, 5.0, 4.0], [2.0, 3.0, 1.0]), 6)
        0.07418
    """
    d = spread([a - b for a, b in zip(values, base, strict=True)])
    if math.isnan(d.std):
        return math.nan
    if d.std == 0:
        return float(d.mean == 0)
    return float(2 * stdtr(d.n - 1, -abs(d.mean) * math.sqrt(d.n) / d.std))


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values of several tests, so that at most 5 % of such families reject a true one.

    Holm, "A simple sequentially rejective multiple test procedure", 1979. The k-th smallest of m is
    multiplied by m − k + 1, and none may be less than the one before.

    Examples:
        >>> [round(value, 6) for value in holm([0.04, 0.01, 0.5])]
        [0.08, 0.03, 0.5]
    """
    adjusted, least = [0.0] * len(p), 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - rank) * p[k]))
        adjusted[k] = least
    return adjusted


def t_quantile(freedom: int, *, level: float = 0.95) -> float:
    """Return the ``t`` with ``P(|T| ≤ t) = level`` for Student's distribution.

    Examples:
        >>> round(t_quantile(4), 6)
        2.776445
    """
    return float(stdtrit(freedom, (1 + level) / 2))


def binomial_interval(count: int, total: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Clopper and Pearson (1934) for a probability.

    It contains the probability at least as often as ``level`` says, for any probability and any
    ``total``.

    Args:
        count: how often the event was seen.
        total: how often it could have been seen, at least once.
        level: the level of the interval.

    Examples:
        >>> low, high = binomial_interval(0, 200)
        >>> round(low, 4), round(high, 4)
        (0.0, 0.0183)
    """
    tail = (1 - level) / 2
    low = float(betaincinv(count, total - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, total - count, 1 - tail)) if count < total else 1.0
    return low, high


def power(shift: float, freedom: int, *, level: float = 0.95) -> float:
    """Return how often a two-sided t test finds a difference that is there.

    The statistic has the noncentral t distribution: ``(z + shift) / w``, where z is normal and w²
    is χ² over its degrees of freedom. For a given w the tails are normal; their mean over w is
    taken at the nodes of a quadrature in its quantiles.

    Args:
        shift: the true mean difference, divided by its standard error.
        freedom: degrees of freedom.
        level: the level of the interval, one less the level of the test.
    """
    w = np.sqrt(chdtri(freedom, (1 + _NODES) / 2) / freedom)
    least = w * t_quantile(freedom, level=level)
    return float(_WEIGHTS @ (ndtr(shift - least) + ndtr(-shift - least)) / 2)


def smallest_seen(difference: Difference, *, chance: float = 0.8) -> float:
    """Return the smallest true difference that as many pairs would find with a given chance.

    To find a difference means that its 95 % interval excludes 0. The standard deviation of the
    pairs is taken as it was observed.

    Args:
        difference: the observed difference of at least two pairs.
        chance: the power that is asked for.

    Returns:
        The size of the difference, in its units; ``nan`` for a single pair, and if all pairs
        differ alike.
    """
    if difference.n < 2:
        return math.nan
    freedom = difference.n - 1
    error = (difference.high - difference.low) / 2 / t_quantile(freedom)
    return error * _shift(freedom, chance)


@cache
def _shift(freedom: int, chance: float) -> float:
    """Return the parameter at which the t test has the given power, by bisection."""
    low, high = 0.0, 1.0
    while power(high, freedom) < chance:
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, freedom) < chance else (low, middle)
    return high
