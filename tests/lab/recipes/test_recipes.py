"""Recipes are fair, and their choice can be repeated without the test set."""

import statistics
from dataclasses import replace

import numpy as np
import pytest

from manifold_mixup.lab import models
from manifold_mixup.lab.commands.tune import Options as Choose
from manifold_mixup.lab.commands.tune import run as choose
from manifold_mixup.lab.data import NAMES, mnist1d
from manifold_mixup.lab.recipes import recipe as recipes
from manifold_mixup.lab.recipes.fast import TARGETS, fast


@pytest.mark.parametrize("data", [*NAMES, "mine.npz"])
@pytest.mark.parametrize("model", models.NAMES)
def test_every_comparison_gives_all_methods_the_same_budget(data, model):
    require_one_budget(recipes.three_methods(data, model), data, model)


@pytest.mark.parametrize(("data", "model"), TARGETS)
def test_the_fast_recipe_gives_all_methods_the_same_budget(data, model):
    require_one_budget(fast(data, model), data, model)


def require_one_budget(runs, data, model):
    plain, at_input, manifold = runs
    assert (plain.data, plain.model) == (data, model)
    assert plain.layers == ()
    assert at_input.layers == ("input",)
    assert manifold.layers == recipes.HIDDEN[model]
    for run in (at_input, manifold):
        own = {"method": plain.method, "layers": (), "alpha": plain.alpha, "lr": plain.lr}
        assert replace(run, **own) == plain


def test_choosing_for_mnist_1d_looks_at_fresh_draws_only(monkeypatch, capsys):
    monkeypatch.setattr("manifold_mixup.lab.data.load", None)  # would load the published signals
    for part, count in {"TRAIN": 400, "TEST": 100, "MORE": 300}.items():
        monkeypatch.setattr(mnist1d, part, count)
    seen = []

    def untrained(runs, data, **_):
        seen.append(data)
        return iter(())

    monkeypatch.setattr("manifold_mixup.lab.launch.processes.train_all", untrained)
    with pytest.raises(statistics.StatisticsError):  # nothing was trained: there is no mean
        choose(Choose(seeds=3))
    assert len({float(data.x[0, 0]) for data in seen}) == 3
    assert all((len(data.x), len(data.x_test)) == (400, 400) for data in seen)


def test_choosing_tries_the_grid_on_held_out_examples_only(tmp_path, task, capsys):
    hopeless = (task.y_test + 1).numpy() % 3  # wrong labels, to detect their use
    np.savez(
        tmp_path / "blobs.npz",
        x_train=task.x.numpy(),
        y_train=task.y.numpy(),
        x_test=task.x_test.numpy(),
        y_test=hopeless,
    )
    choose(
        Choose(
            data=str(tmp_path / "blobs.npz"),
            lr=(0.01, 0.02),
            alpha=(0.2, 1.0),
            seeds=1,
            epochs=15,
            workers=1,
        )
    )
    header, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert header == "| method | lr | weight decay | α | error % | NLL | FGSM acc. % |"
    assert len(lines) == 2 + 4 + 4
    errors = [float(line.split("|")[5]) for line in lines]
    assert min(errors) < 25
    assert max(errors) < 80
