"""Statistics, compared with scipy and numpy."""

import math

import numpy as np
import pytest
from scipy import stats

from manifold_mixup.lab.evaluate.statistics import (
    Difference,
    binomial_interval,
    paired_difference,
    power,
    smallest_seen,
    spread,
    t_quantile,
)
from manifold_mixup.lab.report.table import difference_text


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 30, 100, 999])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_quantile_equals_scipy(freedom, level):
    theirs = stats.t.ppf(0.5 + level / 2, freedom)
    assert t_quantile(freedom, level=level) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
def test_the_quantile_in_closed_form(level):
    assert t_quantile(1, level=level) == pytest.approx(math.tan(math.pi * level / 2))
    assert t_quantile(2, level=level) == pytest.approx(level * math.sqrt(2 / (1 - level**2)))


@pytest.mark.parametrize("n", [2, 5, 12])
def test_the_paired_interval_equals_scipy(n):
    generator = np.random.default_rng(n)
    values, base = generator.normal(size=n), generator.normal(1, 2, size=n)
    interval = stats.ttest_rel(values, base).confidence_interval(0.95)
    ours = paired_difference(values.tolist(), base.tolist())
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    assert ours.mean == pytest.approx(values.mean() - base.mean())
    assert ours.n == n


def test_pairing_removes_what_the_seeds_have_in_common():
    base = [10.0, 20.0, 30.0]
    ours = paired_difference([8.9, 19.0, 29.1], base)  # differences −1.1, −1, −0.9
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((-1, -1 - half, -1 + half))
    assert ours.excludes_zero


def test_the_deviation_is_that_of_a_sample():
    values = [1.0, 2.0, 4.0, 8.0]
    assert spread(values).std == pytest.approx(np.std(values, ddof=1))


def test_one_seed_has_no_deviation_and_no_interval():
    assert math.isnan(spread([3.0]).std)
    ours = paired_difference([3.0], [1.0])
    assert ours.mean == 2
    assert math.isnan(ours.low)
    assert not ours.excludes_zero


@pytest.mark.parametrize("step", [0.0, 0.1])
def test_equal_differences_have_no_interval_of_no_width(step):
    base = [20.1, 20.7, 21.3]  # rounded: 20.7 + 0.1 - 20.7 is not quite 0.1
    found = paired_difference([value + step for value in base], base)
    assert found.mean == pytest.approx(step)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.excludes_zero
    assert math.isnan(smallest_seen(found))
    assert difference_text(found, 2) == f"+{step:.2f} [all seeds alike]"


def test_a_difference_without_bounds_is_not_called_alike():
    assert "alike" not in difference_text(paired_difference([math.inf, 2.0], [1.0, 1.0]), 2)


def test_an_interval_around_zero_says_nothing():
    assert not paired_difference([1.0, -1.0], [0.0, 0.0]).excludes_zero


def test_other_seeds_cannot_be_paired():
    with pytest.raises(ValueError, match="longer"):
        paired_difference([1.0], [1.0, 2.0])


@pytest.mark.parametrize("freedom", [1, 2, 4, 9, 29])
@pytest.mark.parametrize("shift", [0.0, 0.7, 2.5, 6.0])
def test_the_power_is_that_of_the_noncentral_t_distribution(freedom, shift):
    least = stats.t.ppf(0.975, freedom)
    upper, lower = (stats.nct.sf(least, freedom, sign * shift) for sign in (1, -1))
    assert power(shift, freedom) == pytest.approx(upper + lower, abs=1e-5)


def test_without_a_difference_one_in_twenty_is_found():
    assert power(0, 4) == pytest.approx(0.05, abs=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_four_of_five_simulated_comparisons_find_the_smallest_difference(n):
    deviation = 0.4
    half = stats.t.ppf(0.975, n - 1) * deviation / math.sqrt(n)
    least = smallest_seen(Difference(7.0, 7.0 - half, 7.0 + half, n))
    draws = np.random.default_rng(n).normal(least, deviation, size=(40_000, n))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)  # five standard errors


def test_with_many_seeds_it_is_that_of_the_normal_distribution():
    n = 2001
    half = stats.t.ppf(0.975, n - 1) / math.sqrt(n)
    least = smallest_seen(Difference(0.0, -half, half, n))
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert least * math.sqrt(n) == pytest.approx(quantiles, rel=2e-3)


def test_a_single_pair_sees_nothing():
    assert math.isnan(smallest_seen(paired_difference([2.0], [1.0])))


def test_a_value_that_is_not_known_leaves_no_deviation():
    assert math.isnan(spread([1.0, math.nan]).std)
    assert not paired_difference([1.0, math.nan], [0.0, 0.0]).excludes_zero


@pytest.mark.parametrize(
    ("count", "total"), [(0, 1), (1, 1), (0, 200), (7, 200), (200, 200), (3, 9)]
)
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_of_a_probability_equals_scipy(count, total, level):
    theirs = stats.binomtest(count, total).proportion_ci(level, method="exact")
    assert binomial_interval(count, total, level=level) == pytest.approx(tuple(theirs), rel=1e-9)
