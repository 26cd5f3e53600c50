"""Calibration errors, compared with loops, all outcomes, and simulated predictions."""

import itertools
import math

import pytest
import torch

from manifold_mixup.lab.evaluate.calibration import (
    adaptive_ece,
    calibration,
    classwise_ece,
    debiased_gap,
    ece_if_calibrated,
)
from manifold_mixup.lab.evaluate.metrics import nll, reliability


def drawn(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences from 0.3 to 1 and predictions that are right with these probabilities."""
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.3 + 0.7 * torch.rand(count, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(count, generator=generator) < confidence


def square(value: float) -> float:
    """Return the estimate of the square that a signed root in percent stands for."""
    return math.copysign((value / 100) ** 2, value)


# The debiased error


@pytest.mark.parametrize(("confidence", "p"), [(0.5, 0.5), (0.7, 0.7), (0.7, 0.4)])
def test_the_estimate_is_unbiased_over_all_outcomes(confidence, p):
    """Its mean over all outcomes of six predictions is the squared gap; the plug-in's is above."""
    mean = plug_in = 0.0
    for right in itertools.product([False, True], repeat=6):
        chance = math.prod(p if one else 1 - p for one in right)
        all_ = torch.full((6,), confidence, dtype=torch.float64)
        mean += chance * square(debiased_gap(all_, torch.tensor(right)).rms)
        plug_in += chance * (confidence - sum(right) / 6) ** 2
    assert mean == pytest.approx((confidence - p) ** 2, abs=1e-12)
    assert plug_in == pytest.approx((confidence - p) ** 2 + p * (1 - p) / 6)


def test_the_estimate_equals_that_of_kumar_et_al_by_a_loop():
    # Equal confidences in each bin, for which their formula holds exactly.
    confidence = torch.tensor([0.5, 0.6, 0.9], dtype=torch.float64).repeat_interleave(20)
    right = torch.tensor(([True] * 7 + [False] * 13) + [True] * 12 + [False] * 8 + [True] * 20)
    expected = 0.0
    for level, hits in ((0.5, 7), (0.6, 12), (0.9, 20)):
        accuracy = hits / 20
        expected += ((level - accuracy) ** 2 - accuracy * (1 - accuracy) / 19) / 3
    assert square(debiased_gap(confidence, right, bins=3).rms) == pytest.approx(expected)


def test_bins_have_equal_mass():
    confidence, right = drawn(60)
    order = confidence.argsort()
    total = 0.0
    for rows in order.reshape(4, 15):
        gap = [confidence[k].item() - right[k].item() for k in rows]
        mean = sum(gap) / 15
        total += (mean**2 - sum((one - mean) ** 2 for one in gap) / 14 / 15) / 4
    assert square(debiased_gap(confidence, right, bins=4).rms) == pytest.approx(total)


TASKS = {
    "calibrated": lambda c: c,
    "overconfident by 0.05": lambda c: c - 0.05,
    "overconfident in between": lambda c: c - 0.6 * (c - 0.3) * (1 - c),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("low", "power"), [(0.3, 1), (0.5, 6)], ids=["spread out", "near one"])
def test_intervals_cover_the_truth_as_often_as_they_say(task, low, power):
    """95 % of the intervals contain the gap of the bins, for calibrated predictions and others."""
    generator = torch.Generator().manual_seed(0)
    draws, count, bins = 400, 600, 10
    confidence = (
        1 - (1 - low) * torch.rand(count, generator=generator, dtype=torch.float64) ** power
    )
    p = TASKS[task](confidence).clamp(0, 1)
    by_bin = (confidence - p)[confidence.argsort()].reshape(bins, -1).mean(1)
    truth = 100 * by_bin.square().mean().sqrt().item()
    covered = estimates = 0.0
    for _ in range(draws):
        right = torch.rand(count, generator=generator, dtype=torch.float64) < p
        gap = debiased_gap(confidence, right, bins=bins)
        assert 0 <= gap.low <= max(gap.rms, 0) <= gap.high
        covered += gap.low <= truth + 1e-9 and truth <= gap.high
        estimates += square(gap.rms)
    # Three standard errors are 3.3 %. Calibrated predictions are missed below only.
    assert 92 <= 100 * covered / draws <= 99
    assert estimates / draws == pytest.approx((truth / 100) ** 2, abs=1.5e-4)


def test_an_interval_of_many_examples_is_narrow_and_excludes_zero():
    confidence, right = drawn(20_000)
    gap = debiased_gap((confidence + 0.04).clamp(max=1), right)
    assert 3 < gap.low < gap.rms < gap.high < 5


def test_bins_without_mistakes_are_not_certain():
    gap = debiased_gap(torch.ones(100), torch.ones(100, dtype=torch.bool))
    assert (gap.rms, gap.low) == (0, 0)
    assert 2 < gap.high < 8  # an error of 3 % is missed in 100 examples with probability 5 %


def test_a_single_example_has_no_debiased_error():
    gap = debiased_gap(torch.tensor([0.9]), torch.tensor([True]))
    assert all(math.isnan(value) for value in (gap.rms, gap.low, gap.high))


# Other bins


def test_adaptive_ece_equals_a_loop():
    confidence, right = drawn(300)
    rows = sorted(zip(confidence.tolist(), right.tolist(), strict=True))
    total = 0.0
    for k in range(0, 300, 20):
        part = rows[k : k + 20]
        total += abs(sum(c for c, _ in part) - sum(hit for _, hit in part))
    assert adaptive_ece(confidence, right) == pytest.approx(100 * total / 300)


def test_equal_confidences_are_in_one_bin_in_any_order():
    confidence = torch.tensor([0.9] * 70 + [0.5] * 30)
    right = torch.arange(100) % 2 == 0
    expected = 0.7 * abs(0.9 - 0.5) * 100
    assert adaptive_ece(confidence, right) == pytest.approx(expected, rel=1e-5)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert adaptive_ece(confidence[order], right[order]) == pytest.approx(expected, rel=1e-5)
    one, other = debiased_gap(confidence, right), debiased_gap(confidence[order], right[order])
    assert one.rms == pytest.approx(other.rms)


def test_classwise_ece_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    p = (2 * torch.randn(200, 4, generator=generator, dtype=torch.float64)).softmax(1)
    y = torch.randint(4, (200,), generator=generator)
    total = 0.0
    for k in range(4):
        for b in range(15):
            rows = [i for i in range(200) if b / 15 < p[i, k] <= (b + 1) / 15]
            if rows:
                frequency = sum(int(y[i]) == k for i in rows) / len(rows)
                mean = sum(p[i, k].item() for i in rows) / len(rows)
                total += len(rows) / 200 * abs(frequency - mean) / 4
    assert classwise_ece(p, y) == pytest.approx(100 * total)


def test_classwise_ece_in_closed_form():
    sure = torch.eye(5)[torch.zeros(50, dtype=torch.int64)]
    wrong = torch.ones(50, dtype=torch.int64)
    assert classwise_ece(sure, wrong) == pytest.approx(200 / 5)
    assert classwise_ece(sure, torch.zeros(50, dtype=torch.int64)) == 0


# What calibrated predictions would get


def test_the_ece_of_calibrated_predictions_in_closed_form():
    def found(count: int, draws: int) -> float:
        half = torch.full((count,), 0.5)
        return ece_if_calibrated(half, generator=torch.Generator().manual_seed(0), draws=draws)

    assert found(1, 10) == 50
    assert found(2, 4000) == pytest.approx(25, abs=1.2)  # |1/2 - k/2| for k = 0, 1, 1, 2
    # Of n = 400: 0.5 / sqrt(n) times the mean of |N(0, 1)|.
    assert found(400, 1000) == pytest.approx(100 * 0.5 / 20 * math.sqrt(2 / math.pi), rel=0.08)


def test_it_is_what_simulated_calibrated_predictions_get():
    confidence, _ = drawn(1000)
    # Many other classes share the rest, so that the first is the prediction.
    rest = ((1 - confidence) / 50).log()[:, None].expand(-1, 50)
    logits = torch.cat([confidence.log()[:, None], rest], 1)
    generator = torch.Generator().manual_seed(1)
    values = []
    for _ in range(100):
        right = torch.rand(1000, generator=generator, dtype=torch.float64) < confidence
        values.append(reliability(logits, (~right).long()).ece)
    expected = ece_if_calibrated(confidence, generator=torch.Generator().manual_seed(2))
    assert sum(values) / 100 == pytest.approx(expected, rel=0.05)
    assert expected > 2  # far from zero: the bias that the debiased error removes


def test_all_errors_of_logits():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 4, generator=generator)
    y = torch.randint(4, (200,), generator=generator)
    found = calibration(logits, y, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(1)
    right = p.argmax(1) == y
    gap = debiased_gap(p.amax(1), right)
    assert (found.rms_gap, found.rms_low, found.rms_high) == (gap.rms, gap.low, gap.high)
    assert (found.nll, found.ece) == (nll(logits, y), reliability(logits, y).ece)
    assert found.reliability == reliability(logits, y)
    assert found.adaptive_ece == adaptive_ece(p.amax(1), right)
    assert found.classwise_ece == classwise_ece(p, y)
    same = ece_if_calibrated(p.amax(1), generator=torch.Generator().manual_seed(0))
    assert found.ece_if_calibrated == same
