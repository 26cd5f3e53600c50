"""Learning rates by the recipe's schedule."""

from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training import optimizers


def rates(run: Recipe, steps_in_epoch: int) -> list[float]:
    optimizer = optimizers.build(torch.nn.Linear(1, 1), run)
    steps, found = run.epochs * steps_in_epoch, []
    for step in range(steps):
        optimizers.set_rate(optimizer, run, progress=step / steps)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("steps_in_epoch", [1, 3, 7, 500])
def test_steps_divides_by_ten_after_its_milestones_as_torch_does(steps_in_epoch):
    run = Recipe(epochs=12, optimizer="sgd", lr=0.1, schedule="steps", milestones=(4, 8))
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(theirs, run.milestones, gamma=0.1)
    expected = []
    for _ in range(run.epochs):
        expected += [theirs.param_groups[0]["lr"]] * steps_in_epoch
        theirs.step()
        schedule.step()
    assert rates(run, steps_in_epoch) == pytest.approx(expected)


def test_one_cycle_rises_over_the_first_tenth_and_falls_to_nearly_nothing():
    found = rates(Recipe(epochs=100, lr=1.0, schedule="one-cycle"), 10)
    assert found[0] == 0
    assert found[100] == max(found) == 1
    assert found[:100] == sorted(found[:100])
    assert found[100:] == sorted(found[100:], reverse=True)
    assert found[-1] < 1e-5


def test_cosine_and_constant():
    found = rates(Recipe(epochs=100, lr=1.0, schedule="cosine"), 1)
    assert found[0] == 1
    assert found[50] == pytest.approx(0.5)
    assert set(rates(Recipe(epochs=3, lr=0.5, schedule="constant"), 4)) == {0.5}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_and_rate_reach_the_optimizer(name):
    run = replace(Recipe(), optimizer=name, weight_decay=0.3, lr=0.2)
    (group,) = optimizers.build(torch.nn.Linear(1, 1), run).param_groups
    assert (group["weight_decay"], group["lr"]) == (0.3, 0.2)
    assert group.get("nesterov", True) is True
