"""Scores of outliers, compared with scikit-learn, scipy and closed forms."""

import math

import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import entropy, mannwhitneyu, norm
from sklearn.metrics import roc_auc_score, roc_curve

from manifold_mixup.lab.evaluate.outliers import (
    auroc,
    confidence,
    fpr_at_tpr,
    kind,
    negative_energy,
    negative_entropy,
    noise,
    separation,
)


def draw(count: int, *, shift: float, ties: bool, seed: int) -> torch.Tensor:
    values = shift + torch.randn(count, generator=torch.Generator().manual_seed(seed)).double()
    return values.mul(2).round() if ties else values


@pytest.fixture(params=[False, True], ids=["no ties", "ties"])
def sets(request) -> tuple[torch.Tensor, torch.Tensor]:
    ties = request.param
    return draw(313, shift=1, ties=ties, seed=0), draw(200, shift=0, ties=ties, seed=1)


def test_auroc_equals_scikit_learn_and_scipy(sets):
    known, unknown = sets
    label = [1] * len(known) + [0] * len(unknown)
    theirs = roc_auc_score(label, torch.cat(sets).numpy())
    assert auroc(known, unknown) == pytest.approx(100 * theirs)
    u = mannwhitneyu(known.numpy(), unknown.numpy()).statistic
    assert auroc(known, unknown) == pytest.approx(100 * u / len(known) / len(unknown))


@pytest.mark.parametrize("tpr", [0.05, 0.5, 0.95, 1.0])
def test_fpr_equals_scikit_learn(sets, tpr):
    known, unknown = sets
    label = [1] * len(known) + [0] * len(unknown)
    fpr, reached, _ = roc_curve(label, torch.cat(sets).numpy(), drop_intermediate=False)
    assert fpr_at_tpr(known, unknown, tpr=tpr) == pytest.approx(100 * fpr[reached >= tpr][0])


def test_two_normal_distributions_in_closed_form():
    known, unknown = (draw(40_000, shift=s, ties=False, seed=s) for s in (2, 0))
    result = separation(known, unknown)
    assert result.auroc == pytest.approx(100 * norm.cdf(2 / 2**0.5), abs=0.3)
    assert result.fpr95 == pytest.approx(100 * norm.sf(2 + norm.ppf(0.05)), abs=0.8)


def test_equal_scores_are_guessing():
    same = separation(torch.ones(10), torch.ones(7))
    assert (same.auroc, same.fpr95) == (50, 100)


def test_full_separation():
    known, unknown = torch.arange(10.0) + 100, torch.arange(7.0)
    assert (separation(known, unknown).auroc, separation(known, unknown).fpr95) == (100, 0)
    assert auroc(unknown, known) == 0


def test_a_share_that_floats_overshoot_takes_no_further_example():
    # 0.07 * 100 is 7.000000000000001: the seventh score is the threshold, not the eighth.
    known = torch.arange(100.0)
    assert fpr_at_tpr(known, torch.tensor([92.5, 93.0]), tpr=0.07) == 50


def test_confidence_and_entropy_by_scipy():
    logits = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(1)
    assert torch.equal(confidence(logits), p.max(1).values)
    theirs = [-entropy(row) for row in p.numpy()]
    assert negative_entropy(logits).tolist() == pytest.approx(theirs)


def test_a_certain_prediction_has_entropy_zero():
    assert negative_entropy(torch.tensor([[5000.0, 0.0]])).item() == 0


def test_energy_by_scipy_and_in_closed_form():
    logits = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    theirs = [logsumexp(row) for row in logits.numpy()]
    assert negative_energy(logits).tolist() == pytest.approx(theirs)
    assert negative_energy(torch.zeros(1, 8)).item() == pytest.approx(math.log(8))
    assert negative_energy(torch.full((1, 8), 900.0)).item() == pytest.approx(900 + math.log(8))


def test_energy_tells_what_probabilities_do_not():
    # The same probabilities at two levels of the logits.
    known = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    result = {
        score: separation(of(known + 9), of(known)).auroc
        for score, of in {"confidence": confidence, "energy": negative_energy}.items()
    }
    assert result == {"confidence": pytest.approx(50, abs=1), "energy": 100}


def test_near_and_far_sets():
    assert kind("CIFAR-100, long tail 1:100", "cifar-10") == "near"
    assert kind("CIFAR-10", "svhn") == "far"
    assert kind("CIFAR-10", "mine.npz") is None
    assert kind("MNIST-1D", "cifar-10") is None


def test_noise_within_bounds_is_that_of_the_literature():
    like = torch.zeros(200, 1, 10, 10)
    made = noise(like, generator=torch.Generator().manual_seed(0), bounds=(0.0, 1.0))
    uniform, gaussian = made["uniform noise"], made["Gaussian noise"]
    assert uniform.shape == gaussian.shape == like.shape
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert uniform.var().item() == pytest.approx(1 / 12, rel=0.03)
    outside = norm.sf(0.5)  # P(N(0.5, 1) < 0), which equals P(> 1)
    assert (gaussian == 0).double().mean().item() == pytest.approx(outside, abs=0.01)
    assert (gaussian == 1).double().mean().item() == pytest.approx(outside, abs=0.01)


def test_noise_without_bounds_is_like_the_test_set():
    like = 3 + 2 * torch.randn(4000, 5, generator=torch.Generator().manual_seed(1))
    made = noise(like, generator=torch.Generator().manual_seed(0))
    assert made["Gaussian noise"].mean().item() == pytest.approx(3, abs=0.1)
    assert made["Gaussian noise"].std().item() == pytest.approx(2, abs=0.1)
    assert made["uniform noise"].min() >= like.min()
    assert made["uniform noise"].max() <= like.max()
    assert made["uniform noise"].max() > 0.99 * like.max()
