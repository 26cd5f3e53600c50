"""Recipes are fair: every method of a comparison has the same budget."""

from dataclasses import replace

import pytest

from manifold_mixup.lab import models
from manifold_mixup.lab.data import NAMES
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
