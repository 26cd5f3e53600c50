"""Long tails have the counts of their closed form, whatever the data set."""

from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.commands.compare import Options as Compare
from manifold_mixup.lab.commands.compare import prepare
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.data.long_tail import long_tailed, profile
from manifold_mixup.lab.recipes.recipe import Recipe

CAO = {
    100: [500, 299, 179, 107, 64, 38, 23, 13, 8, 5],
    10: [500, 387, 299, 232, 179, 139, 107, 83, 64, 50],
}
"""500 · μ^(k/9) for μ = 1/100 and 1/10, rounded down, as their code gives it."""


def labelled(*counts: int) -> Data:
    """Return data whose inputs are the numbers of the examples."""
    y = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(1))]
    x = torch.arange(len(y)).float()[:, None]
    return Data("numbers", x, y, x[:9], y[:9], classes=len(counts), eps=0.1, space="units")


def counts(data: Data) -> list[int]:
    return data.y.bincount(minlength=data.classes).tolist()


@pytest.mark.parametrize("imbalance", CAO)
def test_the_profile_is_exponential(imbalance):
    assert counts(long_tailed(labelled(*[500] * 10), imbalance)) == CAO[imbalance]


@pytest.mark.parametrize("classes", [2, 3, 7, 100])
def test_the_ends_have_the_ratio_asked_for(classes):
    found = profile([5000] * classes, 50)
    assert (found[0], found[-1]) == (5000, 100)
    assert found == sorted(found, reverse=True)


def test_a_small_late_class_makes_the_profile_smaller():
    """The second class has 20 examples, and needs a tenth of the first one's."""
    assert counts(long_tailed(labelled(900, 20, 900), 100)) == [200, 20, 2]


def test_larger_late_classes_change_nothing():
    assert counts(long_tailed(labelled(400, 900, 500), 100)) == [400, 40, 4]


def test_it_is_a_random_subset_fixed_by_a_seed_of_its_own():
    data = labelled(*[300] * 4)
    one, same, other = (long_tailed(data, 30, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.x, same.x)
    assert not torch.equal(one.x, other.x)
    assert torch.equal(data.y[one.x[:, 0].long()], one.y)
    first = one.x[one.y == 3][:, 0]
    assert len(first) == 10
    assert first.max() > 300  # not only the first rows


def test_the_test_set_stays_and_the_name_says_it():
    data = labelled(100, 100)
    tail = long_tailed(data, 10)
    assert torch.equal(tail.x_test, data.x_test)
    assert torch.equal(tail.y_test, data.y_test)
    assert tail.name == "numbers, long tail 1:10"


def test_every_seed_and_method_gets_the_same_examples(task):
    runs = [
        Recipe(imbalance=10, seed=seed, layers=layers)
        for seed in (0, 5)
        for layers in ((), ("input",))
    ]
    found = [datasets.reduced(task, run).x for run in runs]
    assert all(torch.equal(found[0], one) for one in found)
    assert len(found[0]) == sum(profile(counts(task), 10))


def test_imbalance_1_changes_nothing(task):
    assert datasets.reduced(task, Recipe()) is task


def test_it_is_taken_of_the_examples_that_are_left(task):
    run = Recipe(per_class=40, imbalance=10)
    assert counts(datasets.reduced(task, run)) == [40, 12, 4]


def test_a_comparison_of_a_long_tail(npz, tmp_path):
    options = Compare(
        data=str(npz), methods=("none", "remix"), imbalance=20, seeds=1, out=tmp_path / "out"
    )
    comparison = prepare(options)
    assert "blobs, long tail 1:20 (" in comparison.title
    assert counts(comparison.data)[2] * 20 <= counts(comparison.data)[0] + 20
    assert {run.imbalance for run in comparison.runs} == {20}


@pytest.mark.parametrize("imbalance", [0.5, float("nan"), float("inf")])
def test_an_imbalance_below_1_is_refused(imbalance):
    with pytest.raises(ValueError, match="Expected a finite number, 1 or more"):
        long_tailed(labelled(10, 10), imbalance)


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match=r"leaves no example of class 2 of numbers, whose first"):
        long_tailed(labelled(90, 90, 90), 100)


def test_soft_labels_are_refused(task):
    soft = replace(task, y=torch.eye(3)[task.y])
    with pytest.raises(ValueError, match="imbalance is 5, but blobs has no classes as labels"):
        long_tailed(soft, 5)
