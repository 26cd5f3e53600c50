"""Metrics, compared with loops and independent references."""

import math

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
)

from manifold_mixup.lab.evaluate.metrics import brier, error, nll, reliability, top_error


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 7, generator=generator)
    return logits, torch.randint(7, (500,), generator=generator)


def ece_by_a_loop(logits: torch.Tensor, y: torch.Tensor, bins: int) -> float:
    """Sum |accuracy - confidence| over bins (k/bins, (k+1)/bins], weighted by their share."""
    rows = []
    for row, label in zip(logits.double().softmax(1).tolist(), y.tolist(), strict=True):
        confidence = max(row)
        rows.append((confidence, row.index(confidence) == label))
    total = 0.0
    for k in range(bins):
        there = [(c, right) for c, right in rows if k / bins < c <= (k + 1) / bins]
        if there:
            accuracy = sum(right for _, right in there) / len(there)
            total += len(there) * abs(accuracy - sum(c for c, _ in there) / len(there))
    return 100 * total / len(rows)


@pytest.mark.parametrize("bins", [1, 2, 15, 100])
def test_ece_equals_a_loop(batch, bins):
    assert reliability(*batch, bins=bins).ece == pytest.approx(ece_by_a_loop(*batch, bins))


def test_ece_equals_torchmetrics_where_that_is_right(batch):
    logits, y = batch
    theirs = multiclass_calibration_error(logits.softmax(1), y, num_classes=7, n_bins=15)
    assert reliability(logits, y).ece == pytest.approx(100 * theirs.item(), rel=1e-5)


def test_ece_of_confidence_one_falls_into_the_last_bin():
    # torchmetrics 1.9 puts it in a separate bin: 0.65 instead of 0.35 with two bins.
    probabilities = torch.tensor([[1.0, 0.0]] * 5 + [[0.7, 0.3]] * 5)
    y = torch.tensor([1] * 5 + [0] * 5)
    bins = reliability(probabilities.double().log(), y, bins=2)
    assert bins.count == (0, 10)
    assert bins.ece == pytest.approx(35)
    theirs = multiclass_calibration_error(probabilities, y, num_classes=2, n_bins=2).item()
    assert theirs == pytest.approx(0.65)


def test_reliability_counts_every_example_once(batch):
    bins = reliability(*batch)
    assert len(bins.count) == len(bins.confidence) == len(bins.accuracy) == 15
    assert sum(bins.count) == 500
    right = sum(n * accuracy for n, accuracy in zip(bins.count, bins.accuracy, strict=True))
    assert 100 - 100 * right / 500 == pytest.approx(error(*batch))


def test_a_calibrated_prediction_has_no_calibration_error():
    logits = torch.tensor([0.75, 0.25]).log().expand(4, 2)
    assert reliability(logits, torch.tensor([0, 0, 0, 1])).ece == pytest.approx(0, abs=1e-4)


def test_error_and_nll_in_closed_form():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    y = torch.tensor([1, 0])
    assert error(logits, y) == 50
    assert nll(logits, y) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_nll_equals_scikit_learn(batch):
    logits, y = batch
    theirs = log_loss(y.numpy(), logits.double().softmax(1).numpy(), labels=range(7))
    assert nll(logits, y) == pytest.approx(theirs)


@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_top_error_equals_torchmetrics(batch, k):
    logits, y = batch
    right = multiclass_accuracy(logits, y, num_classes=7, top_k=k, average="micro").item()
    assert top_error(logits, y, k=k) == pytest.approx(100 - 100 * right, abs=1e-4)


def test_top_error_equals_a_loop(batch):
    logits, y = batch
    wrong = 0
    for row, label in zip(logits.tolist(), y.tolist(), strict=True):
        wrong += sum(value > row[label] for value in row) >= 3
    assert top_error(logits, y, k=3) == pytest.approx(100 * wrong / 500)


def test_top_one_error_is_the_error_and_all_classes_hold_every_label(batch):
    assert top_error(*batch, k=1) == error(*batch)
    assert top_error(*batch, k=7) == top_error(*batch, k=99) == 0


def test_brier_equals_scikit_learn_and_a_loop(batch):
    logits, y = batch
    p = logits.double().softmax(1)
    theirs = brier_score_loss(y.numpy(), p.numpy(), labels=range(7), scale_by_half=False)
    assert brier(logits, y) == pytest.approx(theirs)
    total = 0.0
    for row, label in zip(p.tolist(), y.tolist(), strict=True):
        total += sum((value - (place == label)) ** 2 for place, value in enumerate(row))
    assert brier(logits, y) == pytest.approx(total / 500)


def test_brier_goes_from_zero_to_two():
    sure = torch.tensor([[1000.0, 0.0]])
    assert brier(sure, torch.tensor([0])) == 0
    assert brier(sure, torch.tensor([1])) == 2
