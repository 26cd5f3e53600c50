"""Attacks on linear models, whose result is known, and compared with slow loops."""

import math
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from manifold_mixup.lab.evaluate import scores
from manifold_mixup.lab.evaluate.attacks import (
    Attack,
    attack_all,
    authors_fgsm,
    authors_pgd,
    fgsm,
    one_step,
    perturb,
    pgd,
    unbounded,
)


@pytest.fixture
def linear() -> nn.Linear:
    model = nn.Linear(3, 2, bias=False).eval()
    model.weight.data = torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 0.5]])
    return model


def test_fgsm_moves_against_the_labels_weights(linear):
    # With two classes, the gradient for label 0 is (w1 - w0) times a positive number.
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
    assert model.training
    assert result.brier > 0
    assert result.top5_error == 0  # there are only two classes


class Standardize(nn.Module):
    """Subtracts, then divides by a buffer ``std``, as in the lab's models."""

    def __init__(self, std: list[float]) -> None:
        super().__init__()
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x):
        return (x - 0.5) / self.std


def network(std: list[float], *, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = OrderedDict(
            standardize=Standardize(std),
            convolution=nn.Conv2d(3, 8, 3),
            tanh=nn.Tanh(),
            flatten=nn.Flatten(),
            head=nn.Linear(8 * 4 * 4, classes),
        )
        return nn.Sequential(layers).eval()


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(8, 3, 6, 6, generator=generator), torch.arange(8) % 4


STD = [0.25, 0.5, 0.125]


def test_pgd_on_a_linear_model_ends_in_the_corner_of_the_ball(linear):
    x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    attack = replace(pgd(0.25, steps=9), random_start=False)
    # Without the third value: its weights are equal, so its gradient is a rounding error.
    expected = torch.tensor([[-0.25, 0.25], [0.25, -0.25]])
    assert torch.equal(perturb(linear, x, y, attack)[:, :2], expected)


def test_pgd_reaches_that_corner_from_any_start(linear):
    x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    ends = [
        perturb(linear, x, y, pgd(0.25, steps=8), generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    ]
    corner = torch.tensor([[-0.25, 0.25], [0.25, -0.25]])
    assert torch.equal(ends[0][:, :2], corner)
    assert torch.equal(ends[1][:, :2], corner)
    assert not torch.equal(ends[0][:, 2], ends[1][:, 2])
    assert max(end.abs().max().item() for end in ends) <= 0.25


def test_unprojected_steps_add_up(linear):
    x, y = torch.zeros(1, 3), torch.tensor([0])
    attack = Attack("walk", None, 0.5, steps=7)
    assert torch.equal(perturb(linear, x, y, attack)[:, :2], torch.tensor([[-3.5, 3.5]]))


def test_pgd_equals_a_loop_over_the_offset(images):
    x, y = images
    model, eps = network(STD), 0.05
    offset = torch.zeros_like(x)
    for _ in range(5):
        offset.requires_grad_()
        nn.functional.cross_entropy(model(x + offset), y).backward()
        offset = (offset + 0.02 * offset.grad.sign()).detach().clamp(-eps, eps)
        offset = (x + offset).clamp(0, 1) - x
    attack = replace(pgd(eps, steps=5, step_size=0.02), random_start=False)
    ours = perturb(model, x, y, attack, bounds=(0.0, 1.0))
    assert torch.allclose(ours, x + offset, atol=1e-6)


def test_pgd_stays_in_the_ball_and_in_bounds(images):
    x, y = images
    generator = torch.Generator().manual_seed(0)
    moved = perturb(network(STD), x, y, pgd(0.1), bounds=(0.0, 1.0), generator=generator)
    assert (moved - x).abs().max().item() == pytest.approx(0.1)
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_a_random_start_fills_the_ball_evenly(linear):
    attack = Attack("start", 0.5, 0.0, projected=True, random_start=True)
    x, y = torch.ones(20_000, 3), torch.zeros(20_000).long()
    start = perturb(linear, x, y, attack, generator=torch.Generator().manual_seed(0)) - 1
    assert start.abs().max() <= 0.5
    assert start.mean().item() == pytest.approx(0, abs=0.01)
    assert start.var().item() == pytest.approx(1 / 12, rel=0.02)


def test_standardised_eps_is_eps_times_std_in_pixels(images):
    x, y = images
    model, attack = network(STD), replace(authors_fgsm(0.5), loss="cross-entropy")
    moved = perturb(model, x, y, attack)
    for channel, std in enumerate(STD):
        alone = fgsm(model, x, y, eps=0.5 * std)
        assert torch.equal(moved[:, channel], alone[:, channel])
    # After standardisation, every value moved by ε.
    gap = model.standardize(moved) - model.standardize(x)
    assert torch.allclose(gap.abs(), torch.full_like(gap, 0.5), atol=1e-5)


def test_an_attack_on_the_standardised_inputs_of_the_rest_is_the_same(images):
    x, y = images
    model = network(STD)
    inner = perturb(model[1:], model.standardize(x), y, authors_pgd(0.03, steps=3), std=1)
    outer = model.standardize(perturb(model, x, y, authors_pgd(0.03, steps=3)))
    assert torch.allclose(inner, outer, atol=1e-5)


def test_a_ball_in_standardised_units_is_as_wide_as_the_std_of_each_input(linear):
    attack = replace(pgd(0.1, steps=8), space="standardised", random_start=False)
    std = torch.tensor([0.5, 2.0, 1.0])
    x, y = torch.zeros(2, 3), torch.tensor([0, 1])
    attacked = perturb(linear, x, y, attack, std=std)
    corner = torch.tensor([[-0.05, 0.2], [0.05, -0.2]])  # nothing depends on the third input
    torch.testing.assert_close(attacked[:, :2], corner)


def test_std_by_argument_equals_std_of_the_model(images):
    x, y = images
    model = network(STD)
    known = perturb(model, x, y, authors_fgsm())
    assert torch.equal(perturb(nn.Sequential(model), x, y, authors_fgsm(), std=STD), known)


def test_the_authors_attacks_repeat_the_sign_of_bce_of_softmax(images):
    x, y = images
    model, adversarial = network([1.0] * 3), x
    wanted = torch.eye(4)[y]
    for _ in range(3):
        adversarial = adversarial.detach().requires_grad_()
        nn.BCELoss()(model(adversarial).softmax(1), wanted).backward()
        adversarial = (adversarial + 0.03 * adversarial.grad.sign()).detach()
    ours = perturb(model, x, y, authors_pgd(0.03, steps=3), bounds=(0.0, 1.0))
    assert torch.equal(ours, adversarial)
    assert ours.max() > 1  # not clipped
    by_cross_entropy = replace(authors_pgd(0.03, steps=3), loss="cross-entropy")
    assert not torch.equal(ours, perturb(model, x, y, by_cross_entropy))


def test_unbounded_pgd_breaks_a_network_that_a_small_step_does_not(images):
    x, _ = images
    model = network(STD)
    y = model(x).argmax(1)
    weak = perturb(model, x, y, authors_fgsm(1e-4))
    assert (model(weak).argmax(1) == y).all()
    assert (model(perturb(model, x, y, unbounded())).argmax(1) != y).all()


def test_many_stored_bytes_are_attacked_in_chunks_as_in_one_piece():
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(256, (1203, 3, 6, 6), dtype=torch.uint8, generator=generator)
    y = torch.randint(4, (1203,), generator=generator)
    model = network(STD)
    whole = fgsm(model, x.float() / 255, y, eps=0.01, bounds=(0.0, 1.0))
    chunks = attack_all(model, x, y, one_step(0.01), bounds=(0.0, 1.0))
    # Another order of summation may change the sign of a tiny gradient.
    assert (whole == chunks).float().mean() > 0.999


def test_attacks_work_under_no_grad_and_leave_no_gradients(images):
    x, y = images
    model = network(STD)
    with torch.no_grad():
        moved = perturb(model, x, y, authors_pgd(steps=2))
    assert not torch.equal(moved, x)
    assert not moved.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_an_attack_says_its_strength_and_its_space():
    assert str(one_step(8 / 255)) == "FGSM: ε = 0.03137 in the units of the data, cross-entropy"
    assert str(pgd(0.1, steps=7)) == (
        "PGD-7: ε = 0.1, 7 steps of 0.025 in the units of the data, random start, cross-entropy"
    )
    assert str(unbounded()) == (
        "PGD-200 unbounded: no ε, 200 steps of 0.01 in standardised units, not projected, "
        "not clipped, bce of softmax"
    )


def test_the_authors_pgd_steps_by_its_eps():
    attack = authors_pgd(0.03)
    assert (attack.step_size, attack.steps, attack.projected) == (0.03, 200, False)


def test_what_an_attack_lacks_is_named(linear):
    x, y = torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(ValueError, match=r"standardised units, but Linear has no .*Give std="):
        perturb(linear, x, y, authors_fgsm())
    with pytest.raises(ValueError, match=r"PGD-20 starts at a random point\. Give generator="):
        perturb(linear, x, y, pgd(0.1))
    with pytest.raises(ValueError, match="needs eps, but eps is None"):
        Attack("odd", None, 0.1, projected=True)
    with pytest.raises(ValueError, match="step_size=nan"):
        Attack("odd", 0.1, math.nan)
    with pytest.raises(ValueError, match="steps=0"):
        Attack("odd", 0.1, 0.1, steps=0)
