"""The mixing of a recipe in a training step, and the average of weights."""

from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.training.ema import Average
from manifold_mixup.lab.training.method import Method


def step(task, run):
    """Take one training step; return the model, the method and the plan."""
    model = fresh_model(run, task).train()
    method = Method(model, run)
    output = model(task.x[:32])
    plan = method.mixup.plan
    method.criterion(output, task.y[:32]).backward()
    return model, plan


def moved(model):
    """Return the layers with a nonzero gradient."""
    return {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
        and layer.weight.grad is not None
        and layer.weight.grad.abs().max() > 0
    }


@pytest.mark.parametrize("layer", ["hidden1", "hidden2"])
def test_a_blocked_gradient_stops_right_after_the_mixed_layer(task, plain, layer):
    run = replace(plain, layers=(layer,))
    everything = moved(step(task, run)[0])
    blocked = moved(step(task, replace(run, block_gradient=True))[0])
    before = {name for name in everything if name.split(".")[0] <= layer and name != "head"}
    assert before
    assert blocked == everything - before


def test_the_block_follows_the_layer_that_is_drawn(task, plain):
    layers = ("input", "hidden1", "hidden2")
    run = replace(plain, layers=layers, block_gradient=True)
    everything = moved(step(task, replace(run, block_gradient=False))[0])
    seen = {}
    for seed in range(12):
        model, plan = step(task, replace(run, seed=seed))
        seen[plan.layer] = len(moved(model))
    assert len(everything) == 4
    assert seen == {"input": 4, "hidden1": 3, "hidden2": 2}


def test_the_block_changes_no_output(task, plain):
    run = replace(plain, layers=("hidden1",))
    outputs = []
    for block in (False, True):
        model = fresh_model(run, task).train()
        Method(model, replace(run, block_gradient=block))
        outputs.append(model(task.x[:32]))
    assert torch.equal(*outputs)


def test_per_sample_draws_a_lam_for_every_example(task, plain):
    run = replace(plain, layers=("hidden1",))
    assert step(task, run)[1].lam.numel() == 1
    assert step(task, replace(run, per_sample=True))[1].lam.numel() == 32


def test_no_mixup_has_no_state(task, plain):
    method = Method(fresh_model(plain, task), plain)
    method.load_state_dict(method.state_dict())
    assert method.state_dict() == {}


def test_the_average_is_the_exponential_one():
    model = torch.nn.Linear(1, 1, bias=False)
    average, expected = Average(model, decay=0.9), None
    for value in (1.0, 5.0, -2.0, 7.0):
        torch.nn.init.constant_(model.weight, value)
        average.update()
        expected = value if expected is None else 0.9 * expected + 0.1 * value
    assert average.model.weight.item() == pytest.approx(expected)


def test_an_average_that_is_loaded_is_gone_on_with():
    model = torch.nn.Linear(1, 1, bias=False)
    average = Average(model, decay=0.9)
    average.load({"weight": torch.full((1, 1), 10.0)})
    torch.nn.init.zeros_(model.weight)
    average.update()
    assert average.model.weight.item() == pytest.approx(9.0)


def test_a_warm_average_is_the_mean_until_its_decay_is_reached():
    model = torch.nn.Linear(1, 1, bias=False)
    average, values = Average(model, decay=0.75, warm_up=True), [1.0, 5.0, -2.0, 8.0, 4.0, 6.0]
    seen = []
    for step, value in enumerate(values):
        torch.nn.init.constant_(model.weight, value)
        average.update(step)
        seen.append(average.model.weight.item())
    assert seen[:4] == pytest.approx([1.0, 3.0, 4 / 3, 3.0])
    assert seen[4:] == pytest.approx([3.25, 3.9375])


def test_without_decay_the_model_is_its_own_average():
    model = torch.nn.Linear(1, 1)
    average = Average(model, decay=0.0)
    average.update()
    assert average.model is model
