"""FGSM on a linear model, where its result is known."""

import pytest
import torch
from torch import nn

from manifold_mixup.lab.evaluate import scores
from manifold_mixup.lab.evaluate.attacks import fgsm


@pytest.fixture
def linear() -> nn.Linear:
    model = nn.Linear(3, 2, bias=False).eval()
    model.weight.data = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 0.5]])
    return model


def test_fgsm_moves_against_the_labels_weights(linear):
    # With two classes the slope of the loss of label 0 is (w1 - w0) times something positive.
    x = torch.zeros(2, 3)
    attacked = fgsm(linear, x, torch.tensor([0, 1]), eps=0.25)
    assert torch.equal(attacked, torch.tensor([[-0.25, 0.25, 0.0], [0.25, -0.25, 0.0]]))


def test_fgsm_raises_the_loss_as_much_as_the_closed_form_says(linear):
    x, y = torch.randn(64, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(64).long()
    margin = (linear(x)[:, 1] - linear(x)[:, 0]).double()
    attacked = linear(fgsm(linear, x, y, eps=0.1))
    moved = (attacked[:, 1] - attacked[:, 0]).double() - margin
    assert moved.tolist() == pytest.approx([0.1 * (1 + 3)] * 64, rel=1e-4)  # ε · ‖w1 - w0‖₁


def test_fgsm_stays_within_bounds(linear):
    x = torch.tensor([[0.1, 0.95, 0.5]])
    attacked = fgsm(linear, x, torch.tensor([0]), eps=0.25, bounds=(0.0, 1.0))
    assert torch.equal(attacked, torch.tensor([[0.0, 1.0, 0.5]]))


def test_an_attack_leaves_inputs_and_parameters_alone(linear):
    x = torch.ones(1, 3)
    fgsm(linear, x, torch.tensor([0]), eps=0.1)
    assert torch.equal(x, torch.ones(1, 3))
    assert not x.requires_grad
    assert linear.weight.grad is None


def test_a_row_is_attacked_the_same_in_any_batch(linear):
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 0, 1, 1])
    whole = fgsm(linear, x, y, eps=0.1)
    rows = [fgsm(linear, x[i : i + 1], y[i : i + 1], eps=0.1) for i in range(5)]
    assert torch.equal(whole[:, :2], torch.cat(rows)[:, :2])  # the third weights are equal


def test_scores_are_of_the_model_in_eval_mode(linear):
    model = nn.Sequential(nn.Dropout(0.9), linear).train()
    x, y = torch.randn(1500, 3), torch.zeros(1500).long()
    result = scores(model, x, y, eps=1e-9)
    right = 100 * (linear(x).argmax(1) == 0).double().mean().item()
    assert result.error == pytest.approx(100 - right)
    assert result.fgsm_accuracy == pytest.approx(right, abs=0.2)
    assert result.ece == result.reliability.ece
