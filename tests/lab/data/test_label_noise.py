"""Wrong training labels: how many, which, and that all methods of a seed learn from the same."""

from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab import paper
from manifold_mixup.lab.commands.compare import Options as Compare
from manifold_mixup.lab.commands.compare import prepare
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.data.label_noise import with_label_noise
from manifold_mixup.lab.data.validation import validation
from manifold_mixup.lab.recipes.check import check_recipe
from manifold_mixup.lab.recipes.recipe import Recipe, identity
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.method import check

CLASSES = 5


@pytest.fixture(scope="module")
def many() -> Data:
    y = torch.arange(50_000) % CLASSES
    x = torch.arange(len(y)).float()[:, None]
    return Data("numbers", x, y, x[:9], y[:9], classes=CLASSES, eps=0.1, space="units")


@pytest.mark.parametrize("share", [0.2, 0.4, 0.00003])
def test_exactly_that_share_is_wrong(many, share):
    noisy = with_label_noise(many, share, seed=3)
    assert (noisy.y != many.y).sum() == round(share * len(many.y))
    assert torch.equal(noisy.y_test, many.y_test)
    assert torch.equal(many.y, torch.arange(50_000) % CLASSES)  # the caller's own stay


def test_all_other_classes_are_equally_likely_and_all_examples_too(many):
    noisy = with_label_noise(many, 0.4, seed=1)
    wrong = noisy.y != many.y
    pairs = torch.bincount(many.y[wrong] * CLASSES + noisy.y[wrong], minlength=CLASSES**2)
    off = pairs.view(CLASSES, CLASSES)[~torch.eye(CLASSES, dtype=torch.bool)].double()
    expected = 20_000 / (CLASSES * (CLASSES - 1))
    chi_squared = ((off - expected) ** 2 / expected).sum().item()
    assert chi_squared < 43.8  # exceeded by 1 in 1,000 draws, with 19 degrees of freedom
    assert pairs.view(CLASSES, CLASSES).diag().sum() == 0
    by_place = wrong.view(10, -1).sum(1).double()
    assert (by_place - 2000).abs().max() < 4 * (5000 * 0.4 * 0.6) ** 0.5


def test_a_seed_has_one_draw(many):
    one, same, other = (with_label_noise(many, 0.2, seed=seed).y for seed in (0, 0, 1))
    assert torch.equal(one, same)
    # Independent draws share 0.2² of the examples, and a quarter of these the label.
    assert ((one != many.y) & (other != many.y)).double().mean() == pytest.approx(0.04, abs=0.005)


def test_without_noise_nothing_is_drawn(many):
    assert with_label_noise(many, 0.0, seed=0) is many


def test_all_methods_of_a_seed_learn_from_the_same_labels(task, runs):
    noisy = with_label_noise(task, 0.4, seed=1).y
    jobs = [Job(replace(run, label_noise=0.4), task) for run in runs]
    for job in jobs:
        labels = job.loader.y
        assert torch.equal(labels, noisy) == (job.run.seed == 1)
        assert (labels != task.y).sum() == 100
        assert torch.equal(job.trained.y, labels)
        assert torch.equal(job.watched[1], task.y_test)
        assert torch.equal(job.data.y_test, task.y_test)
    assert len({job.loader.y.numpy().tobytes() for job in jobs}) == 2


def test_held_out_examples_are_noisy_too(task, plain):
    run = replace(plain, label_noise=0.4, validation=0.2)
    clean, noisy = Job(replace(run, label_noise=0.0), task), Job(run, task)
    assert torch.equal(clean.watched[0], noisy.watched[0])
    wrong = [
        (one != other).sum().item()
        for one, other in (
            (clean.loader.y, noisy.loader.y),
            (clean.watched[1], noisy.watched[1]),
        )
    ]
    assert sum(wrong) == 100
    assert min(wrong) > 5


def test_a_search_chooses_by_noisy_labels(npz, tmp_path):
    clean, noisy = (
        validation(str(npz), root=tmp_path, share=0.4, label_noise=share) for share in (0, 0.4)
    )
    assert noisy.about.endswith("; 40 % of all labels are wrong")
    one, other = clean.split(3), noisy.split(3)
    assert torch.equal(one.x_test, other.x_test)
    assert torch.equal(one.y, other.y)  # the recipe makes these noisy
    assert (one.y_test != other.y_test).sum() == 40
    assert torch.equal(noisy.split.ready([3])(3).y_test, other.y_test)


def test_the_table_has_two_rates_with_three_methods_each():
    rows = paper.table("label-noise").rows
    found = [(row.run.label_noise, row.run.method, bool(row.base)) for row in rows]
    methods = ("no mixup", "input mixup", "manifold mixup")
    assert [(share, method.partition(",")[0].partition(" α")[0]) for share, method, _ in found] == [
        (share, method) for share in (0.2, 0.4) for method in methods
    ]
    assert [base for *_, base in found] == [False, True, True] * 2
    assert {row.base for row in rows if row.group.startswith("40")} == {"", rows[3].label}


def test_compare_has_it_for_all_methods(npz):
    options = Compare(data=str(npz), model="mlp", seeds=1, label_noise=0.4, device="cpu")
    comparison = prepare(options)
    assert {run.label_noise for run in comparison.runs} == {0.4}
    assert "80 test examples), 40 % of the training labels wrong, MLP" in comparison.title
    assert "wrong" not in prepare(replace(options, label_noise=None)).title
    with pytest.raises(
        ValueError, match=r"--label-noise is 1\. Expected 0 or more, and less than 1"
    ):
        prepare(Compare(label_noise=1))


def test_runs_without_it_keep_their_identity_and_others_get_one(plain):
    assert "label_noise" not in identity(plain)
    assert identity(replace(plain, label_noise=0.2))["label_noise"] == 0.2


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(many, share):
    with pytest.raises(ValueError, match=rf"label_noise is {share}\. Expected 0 or more, and less"):
        check_recipe(Recipe(label_noise=share))
    with pytest.raises(ValueError, match=rf"label_noise is {share}\. Expected 0 or more, and less"):
        with_label_noise(many, share, seed=0)


def test_labels_that_are_no_classes_are_refused(many, plain):
    soft = replace(many, y=torch.eye(CLASSES)[many.y])
    with pytest.raises(
        ValueError, match=r"label_noise is 0\.2, but numbers has no classes as labels"
    ):
        check(replace(plain, data="numbers", label_noise=0.2), soft)
    with pytest.raises(ValueError, match=r"label_noise is 0\.2, but the loss is mse"):
        check_recipe(Recipe(loss="mse", label_noise=0.2))
