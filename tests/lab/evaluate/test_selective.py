"""The risk-coverage curve and its area, compared with a loop, all orders and closed forms."""

import itertools
import math

import pytest
import torch

from manifold_mixup.lab.evaluate.selective import COVERAGES, risk_coverage


def aurc_by_pairs(confidence: list[float], wrong: list[bool]) -> float:
    """Average the error among all examples that are at least as confident as each one."""
    risks = []
    for threshold in confidence:
        made = [w for c, w in zip(confidence, wrong, strict=True) if c >= threshold]
        risks.append(sum(made) / len(made))
    return 100 * sum(risks) / len(risks)


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(301, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(301, generator=generator) > confidence


def test_the_area_equals_a_loop_over_pairs(predictions):
    confidence, wrong = predictions
    expected = aurc_by_pairs(confidence.tolist(), wrong.tolist())
    assert risk_coverage(confidence, wrong).aurc == pytest.approx(expected)


def test_ties_are_the_mean_over_all_orders():
    confidence = [0.9, 0.9, 0.6, 0.6, 0.6, 0.3]
    wrong = [True, False, False, True, False, True]
    areas = []
    for order in itertools.permutations(range(6)):
        ranked = [confidence[k] for k in order]
        if ranked == sorted(ranked, reverse=True):
            hits = [wrong[k] for k in order]
            areas.append(sum(sum(hits[:k]) / k for k in range(1, 7)) / 6)
    assert len(areas) == math.factorial(2) * math.factorial(3)
    found = risk_coverage(torch.tensor(confidence), torch.tensor(wrong))
    assert found.aurc == pytest.approx(100 * sum(areas) / len(areas))


def test_no_order_has_a_smaller_area_than_the_best():
    wrong = [True, False, False, True, False, False]
    areas = [
        aurc_by_pairs(list(order), wrong) for order in itertools.permutations([6.0, 5, 4, 3, 2, 1])
    ]
    found = risk_coverage(torch.rand(6), torch.tensor(wrong))
    assert found.best_aurc == pytest.approx(min(areas))
    assert found.excess_aurc == pytest.approx(found.aurc - min(areas))


def test_the_best_area_in_closed_form():
    # With a share r wrong and n → ∞: r + (1 - r) ln(1 - r).
    wrong = torch.arange(100_000) < 20_000
    found = risk_coverage(-wrong.double(), wrong)
    assert found.aurc == found.best_aurc
    assert found.excess_aurc == 0
    assert found.aurc == pytest.approx(100 * (0.2 + 0.8 * math.log(0.8)), rel=1e-3)


def test_one_confidence_for_all_has_the_area_of_guessing():
    wrong = torch.arange(50) % 5 == 0
    found = risk_coverage(torch.ones(50), wrong)
    assert found.aurc == pytest.approx(20)
    assert found.risk == pytest.approx([20] * 20)


def test_calibrated_uniform_confidence_in_closed_form():
    # Wrong with probability 1 - c, c uniform: the risk at coverage u is u / 2, its area 1 / 4.
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(200_000, generator=generator, dtype=torch.float64)
    wrong = torch.rand(200_000, generator=generator, dtype=torch.float64) > confidence
    found = risk_coverage(confidence, wrong)
    assert found.aurc == pytest.approx(25, abs=0.3)
    for coverage, risk in zip(found.coverage, found.risk, strict=True):
        assert risk == pytest.approx(50 * coverage, abs=0.6)


def test_the_curve_ends_in_the_error(predictions):
    confidence, wrong = predictions
    found = risk_coverage(confidence, wrong)
    assert found.coverage == COVERAGES
    assert found.risk[-1] == pytest.approx(100 * wrong.double().mean().item())
    ranked = wrong[confidence.argsort(descending=True)].double()
    for coverage, risk in zip(found.coverage, found.risk, strict=True):
        assert risk == pytest.approx(100 * ranked[: math.ceil(coverage * 301)].mean().item())


def test_a_share_that_floats_overshoot_takes_no_further_prediction():
    # 0.07 * 100 is 7.000000000000001: the error among seven predictions, not eight.
    wrong = torch.arange(100) == 7
    found = risk_coverage(-torch.arange(100.0), wrong, coverage=(0.07, 0.08))
    assert found.risk == (0, 12.5)


def test_the_order_of_the_examples_does_not_matter(predictions):
    confidence, wrong = predictions
    confidence = confidence.mul(10).round()
    order = torch.randperm(301, generator=torch.Generator().manual_seed(1))
    one, other = risk_coverage(confidence, wrong), risk_coverage(confidence[order], wrong[order])
    assert one.aurc == pytest.approx(other.aurc)
    assert one.risk == pytest.approx(other.risk)
