"""Evaluation after some epochs only, or of the final weights alone."""

import math
from dataclasses import replace

import pytest

from manifold_mixup.lab.recipes.check import check_recipe
from manifold_mixup.lab.recipes.recipe import identity
from manifold_mixup.lab.runs.folder import finished
from manifold_mixup.lab.training.loop import Stopped, train


@pytest.mark.parametrize(("every", "seen"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (0, [])])
def test_which_epochs_are_evaluated(plain, task, every, seen):
    usual, found = train(plain, task), train(replace(plain, every=every), task)
    assert found.weights == usual.weights
    assert found.last == usual.last
    assert [one.epoch for one in found.curve if math.isfinite(one.error)] == seen
    assert [one.train_loss for one in found.curve] == [one.train_loss for one in usual.curve]
    among = [one for one in usual.curve if one.epoch in seen] or usual.curve[-1:]
    assert found.best_epoch == min(among, key=lambda one: one.error).epoch


@pytest.mark.parametrize("every", [0, 2])
def test_a_stopped_run_ends_as_an_uninterrupted_one(plain, task, tmp_path, every):
    run = replace(plain, every=every)
    steps = iter(range(100))
    with pytest.raises(Stopped):
        train(run, task, folder=tmp_path, stop=lambda: next(steps) > 9)
    found, whole = train(run, task, folder=tmp_path), train(run, task)
    assert (found.weights, found.best_epoch) == (whole.weights, whole.best_epoch)
    assert finished(tmp_path).last == whole.last


def test_weights_that_diverged_are_no_result(plain, task):
    with pytest.raises(FloatingPointError, match="A learning rate below"):
        train(replace(plain, lr=1e30, every=0), task)


def test_its_range_and_the_identity_of_older_runs(plain):
    with pytest.raises(ValueError, match=r"every is -1\. Expected 0 or more"):
        check_recipe(replace(plain, every=-1))
    assert "every" not in identity(plain)
    assert identity(replace(plain, every=0))["every"] == 0
