"""Compilation before the clock starts makes all graphs, and changes nothing else."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from manifold_mixup.lab.training import loop as training
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.loop import train
from manifold_mixup.lab.training.warm_up import warm_up


@pytest.fixture
def graphs(monkeypatch):
    """The number of inputs of every captured graph; the graphs are not compiled further."""
    made, compile_module = [], nn.Module.compile

    def backend(graph, inputs):
        made.append(len(inputs))
        return graph.forward

    def compile_by(self, **options):
        compile_module(self, backend=backend, **options)

    monkeypatch.setattr(nn.Module, "compile", compile_by)
    with torch._dynamo.config.patch(recompile_limit=torch._dynamo.config.recompile_limit):
        yield made  # a job raises the limit
    torch._dynamo.reset()


RECIPES = {
    "no mixup": {"dropout": 0.2},
    "manifold mixup": {"layers": ("input", "hidden1", "hidden2"), "batch_norm": True},
    "per sample": {"layers": ("input", "hidden2"), "per_sample": True, "dropout": 0.2},
    "other class": {"layers": ("hidden1",), "pairs": "other_class", "p": 0.7},
    "regmixup": {"layers": ("hidden1",), "clean": True},
    "in parts": {"layers": ("hidden1",), "accumulate": 2, "block_gradient": True},
}


REPEATED = ("manifold mixup", "regmixup")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    "recipe",
    [
        # "per sample" has several layers too, and the test of the job below a batch norm.
        pytest.param(recipe, marks=pytest.mark.thorough if recipe in REPEATED else ())
        for recipe in RECIPES
    ],
)
def test_all_graphs_are_there_and_training_ends_in_the_same_bits(
    task, plain, graphs, monkeypatch, recipe
):
    """The last batch of an epoch is smaller, and an odd batch has parts of two sizes."""
    run = replace(plain, epochs=2, batch=85, compile=True, **RECIPES[recipe])
    counts = []

    def counted(job):
        warm_up(job)
        counts.append(len(graphs))

    monkeypatch.setattr(training, "warm_up", counted)
    warm = train(run, task, on_step=lambda _: counts.append(len(graphs)))
    assert counts[0] >= 2 * max(1, len(run.layers))
    assert counts[1] == counts[0]
    assert counts[-1] == counts[0] + 1  # the graph of the evaluation, which is not timed
    monkeypatch.setattr(training, "warm_up", lambda job: None)
    assert replace(train(run, task), seconds=warm.seconds) == warm


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_one_compiled_run_after_another_stays_below_the_limit_of_graphs(task, plain, graphs):
    """The limit counts all runs of a model class together."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for width in (4, 5):
            run = replace(plain, epochs=1, compile=True, width=width, layers=("input", "hidden1"))
            train(run, task)
    assert len(graphs) >= 9


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_it_leaves_the_job_as_it_was(task, plain, graphs):
    run = replace(plain, compile=True, batch_norm=True, layers=("input", "hidden1"))
    job, fresh = Job(run, task), Job(run, task)
    generator = torch.get_rng_state()
    warm_up(job)
    assert graphs
    assert torch.equal(torch.get_rng_state(), generator)
    for (name, ours), theirs in zip(
        job.core.state_dict().items(), fresh.core.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert all(parameter.grad is None for parameter in job.core.parameters())
    assert job.method.state_dict() == fresh.method.state_dict()


def test_a_run_that_is_not_compiled_does_not_wait(task, plain, monkeypatch):
    job = Job(replace(plain, layers=("input",)), task)
    monkeypatch.setattr(job, "model", None)  # a call would fail
    warm_up(job)
