"""Adversarial training is PGD on each batch, and leaves no trace of the attack in the model."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lab_runs import run as command
from manifold_mixup.lab.recipes.check import check_recipe
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training.adversarial import attack_of, attacked
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.method import check

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(plain) -> Recipe:
    return replace(plain, method="adversarial training", pgd_steps=7, pgd_eps=0.4, batch_norm=True)


@pytest.fixture
def batch(task):
    return task.x[:40], task.y[:40]


def madry(model, x, y, eps, steps, start):
    """Return the attacked batch, written out; ``start`` is uniform in 0 to 1."""
    moved = x + eps * (2 * start - 1)
    for _ in range(steps):
        moved = moved.detach().requires_grad_()
        F.cross_entropy(model(moved), y, reduction="sum").backward()
        moved = moved.detach() + eps / 4 * moved.grad.sign()
        moved = torch.minimum(torch.maximum(moved, x - eps), x + eps)
    return moved


def test_a_batch_is_attacked_as_in_madry(task, run, batch):
    job, other = Job(run, task), Job(run, task)
    job.model.train()
    other.model.train()
    torch.manual_seed(3)
    found = attacked(job.core, *batch, job.attack, bounds=None)
    torch.manual_seed(3)
    start = torch.rand(batch[0].shape, generator=torch.default_generator)
    torch.testing.assert_close(found, madry(other.core, *batch, 0.4, 7, start))
    assert (found - batch[0]).abs().max() <= 0.4 + 1e-6
    assert not found.requires_grad


def test_a_step_trains_on_the_attacked_batch_only(task, run, batch):
    """The gradient of a step is that of the attacked batch, written out."""
    job, other = Job(run, task), Job(run, task)
    gradients = {}

    def keep(*_):
        gradients.update({n: p.grad.clone() for n, p in job.core.named_parameters()})

    job.model.train()
    job.optimizer.register_step_pre_hook(keep)
    job.step(*batch, 5, sums=torch.zeros(2))
    other.draw_by(5)
    other.model.train()
    moved = attacked(other.core, *batch, other.attack, bounds=None)
    F.cross_entropy(other.core(moved), batch[1]).backward()
    for name, parameter in other.core.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


@pytest.mark.parametrize("layers", [(), ("input", "hidden1")])
def test_the_attack_leaves_no_trace(task, run, batch, layers):
    job = Job(replace(run, layers=layers), task)
    job.model.train()
    before = {name: value.clone() for name, value in job.core.state_dict().items()}
    stream = job.method.state_dict()
    moved = job._attacked(*batch)
    assert not torch.equal(moved, batch[0])
    for name, value in job.core.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in job.core.parameters())
    assert job.method.state_dict() == stream
    assert job.model.training


def test_attacked_pixels_stay_pixels(task, run):
    data = replace(task, x=task.x.clamp(0, 1), bounds=(0.0, 1.0))
    job = Job(run, data)
    job.model.train()
    moved = job._attacked(data.x[:40], data.y[:40])
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_attacked_batches_can_be_mixed(task, run, batch):
    job = Job(replace(run, layers=("hidden1",)), task)
    job.model.train()
    job.step(*batch, 0, sums=torch.zeros(2))
    assert job.method.mixup.plan.layer == "hidden1"


def test_without_eps_it_is_that_of_the_data(task, run):
    assert attack_of(replace(run, pgd_eps=None), task).eps == task.eps
    assert attack_of(replace(run, pgd_steps=0, pgd_eps=None), task) is None


BAD = {
    "steps": ({"pgd_steps": -1}, "pgd_steps is -1. Expected 0 or more."),
    "eps": ({"pgd_eps": 0.0}, "pgd_eps is 0.0. Expected a finite number above 0."),
    "eps alone": ({"pgd_steps": 0}, "pgd_eps is 0.4, but no batch is attacked. Set pgd_steps"),
    "numbers": ({"loss": "mse"}, "pgd_steps is 7, but the loss is mse, which has no labels."),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(run, case):
    settings, reason = BAD[case]
    with pytest.raises(ValueError, match=reason):
        check_recipe(replace(run, **settings))
    check_recipe(run)


def test_data_without_an_eps_need_one(task, run):
    with pytest.raises(ValueError, match=r"blobs has none of its own. Set pgd_eps"):
        check(replace(run, pgd_eps=None), replace(task, eps=0.0))


def test_on_the_command_line(npz, tmp_path):
    options = ("--recipe", "compare", "--data", npz, "--model", "mlp", "--device", "cpu")
    own = ("--mixing", "none", "--method", "adversarial", "--pgd-steps", 2, "--epochs", 1)
    assert command("train", *options, *own, "--out", tmp_path / "run") == 0
