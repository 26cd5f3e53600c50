"""Regression: its models, loss and scores, and C-Mixup over the whole training set."""

import json
import math
from dataclasses import replace

import pytest
import torch
from sklearn.metrics import r2_score, root_mean_squared_error
from torch.nn import functional as F

from lab_runs import run as command
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import evaluate, models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import read_result
from manifold_mixup.lab.training.job import Job
from manifold_mixup.lab.training.loop import Stopped, train
from manifold_mixup.lab.training.method import Method, check
from manifold_mixup.lab.training.partners import NearPartners

pytestmark = pytest.mark.usefixtures("one_thread")

NEAR = {"method": "C-Mixup", "pairs": "near", "bandwidth": 20.0, "alpha": 2.0}
IN_BATCH = {"method": "near pairs", "pairs": "near_in_batch", "bandwidth": 1.0}


@pytest.fixture(scope="module")
def numbers() -> Data:
    """A sum of features, in large units, with noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator)
    y = 200 + 50 * x[:, 0] - 30 * x[:, 1] + 5 * torch.randn(300, generator=generator)
    return Data("sums", x[:220], y[:220], x[220:], y[220:], classes=0, eps=0.0, space="")


@pytest.fixture(scope="module")
def plain() -> Recipe:
    return Recipe(data="sums", loss="mse", epochs=4, batch=50, lr=0.02, width=16)


# Models, loss and scores


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_predictions_are_in_the_units_of_the_targets(numbers, name):
    model = models.build(name, numbers).eval()
    found = evaluate.logits(model, numbers.x)
    assert found.shape == (220,)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(1.0)
    expected = numbers.y.mean() + numbers.y.std()
    torch.testing.assert_close(evaluate.logits(model, numbers.x), expected.expand(220))


def test_networks_of_images_predict_classes(numbers):
    with pytest.raises(ValueError, match="preact-resnet18 predicts classes, but sums has numbers"):
        models.build("preact-resnet18", numbers)


def test_training_does_not_depend_on_the_units(numbers, plain):
    cents = replace(numbers, y=100 * numbers.y, y_test=100 * numbers.y_test)
    ours, theirs = (train(plain, data).last for data in (numbers, cents))
    assert theirs.rmse == pytest.approx(100 * ours.rmse, rel=1e-3)
    assert theirs.r2 == pytest.approx(ours.r2, rel=1e-3)


def test_scores_are_those_of_scikit_learn(numbers, plain):
    job = Job(plain, numbers)
    scores = job.scores()
    predictions = evaluate.logits(job.core.eval(), numbers.x_test)
    assert scores.rmse == pytest.approx(root_mean_squared_error(numbers.y_test, predictions))
    assert scores.r2 == pytest.approx(r2_score(numbers.y_test, predictions), rel=1e-5)
    assert math.isnan(scores.error)


def test_it_learns_and_its_result_survives_json(numbers, plain, tmp_path):
    result = train(replace(plain, epochs=25), numbers, folder=tmp_path)
    assert result.last.r2 > 0.9
    assert result.curve[-1].error == pytest.approx(result.last.rmse)
    assert result.curve[-1].nll == pytest.approx(result.last.rmse**2)
    stored = json.loads((tmp_path / "result.json").read_text())["result"]
    assert read_result(stored).last.rmse == result.last.rmse


VARIANTS = {
    "no mixup": {},
    "manifold mixup": {"layers": ("input", "hidden1")},
    "regmixup": {"layers": ("hidden1",), "clean": True},
    "c-mixup": {"layers": ("hidden1",), **NEAR},
    "near in batch": {"layers": ("hidden1",), **IN_BATCH},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_anywhere_it_ends_in_the_same_bits(numbers, plain, tmp_path, variant):
    run = replace(plain, epochs=2, **VARIANTS[variant])
    whole = train(run, numbers)
    left = iter(range(7))
    with pytest.raises(Stopped):
        train(run, numbers, folder=tmp_path, stop=lambda: next(left, None) is None)
    assert train(run, numbers, folder=tmp_path).weights == whole.weights


# C-Mixup


def test_partners_have_the_probabilities_of_the_formula():
    """Frequencies of 60,000 draws for each of three targets, within five standard errors."""
    y = torch.tensor([0.0, 1.0, 1.0, 2.5, 4.0, 9.0, 0.5, 4.0])
    partners, s, count = NearPartners(y, bandwidth=1.5), 1.5, 60_000
    generator = torch.Generator().manual_seed(1)
    for target in (0.0, 1.0, 9.0):
        weights = torch.exp(-((target - y.double()) ** 2) / (2 * s**2))
        expected = weights / weights.sum()
        rows = partners.draw(torch.full((count,), target), generator)
        found = rows.bincount(minlength=len(y)).double() / count
        error = (expected * (1 - expected) / count).sqrt()
        assert ((found - expected).abs() <= 5 * error + 1e-9).all()


def test_partners_of_a_tiny_bandwidth_have_the_same_target():
    y = torch.tensor([3.0, -1.0, 3.0, 700.0, 3.0])
    rows = NearPartners(y, bandwidth=1e-6).draw(y.repeat(50), torch.Generator().manual_seed(0))
    assert torch.equal(y[rows], y.repeat(50))
    assert set(rows.tolist()) == {0, 1, 2, 3, 4}


def test_a_target_far_from_all_takes_the_nearest():
    y = torch.tensor([0.0, 1.0, 2.0])
    rows = NearPartners(y, bandwidth=1e-3).draw(torch.tensor([50.0]), torch.Generator())
    assert rows.tolist() == [2]


@pytest.mark.parametrize("layer", ["input", "hidden1"])
def test_c_mixup_is_the_authors_algorithm(numbers, plain, layer):
    """Against two passes up to the layer and one from there, by hand, on the same draws."""
    run = replace(plain, layers=(layer,), **NEAR)
    data = replace(numbers, x=numbers.x.double(), y=numbers.y.double())
    model, ours = (fresh_model(run, numbers).double() for _ in range(2))
    method = Method(model, run, data=data)
    x, y = data.x[:30], data.y[:30]
    torch.manual_seed(5)
    loss = method.loss(model, x, y)
    loss.backward()
    plan = method.mixup.plan
    torch.manual_seed(5)
    lam = method._draw(method.mixup, 30).lam.double()
    rows = method.partners.draw(y, torch.default_generator)
    assert torch.equal(plan.lam[:30].double(), lam.expand(30))
    assert rows.max() > 30  # partners from outside the batch

    stages = list(ours.named_children())
    cut = 0 if layer == "input" else [name for name, _ in stages].index(layer) + 1
    states = [x, data.x[rows]]
    for _, stage in stages[:cut]:
        states = [stage(state) for state in states]
    state = lam * states[0] + (1 - lam) * states[1]
    for _, stage in stages[cut:]:
        state = stage(state)
    wanted = lam * y + (1 - lam) * data.y[rows]
    expected = F.mse_loss(state, wanted) / data.y.var()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for one, other in zip(model.parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-7)


def test_near_in_batch_takes_partners_of_the_batch(numbers, plain):
    run = replace(plain, layers=("hidden1",), **IN_BATCH)
    job = Job(run, numbers)
    job.model.train()
    x, y = next(job.loader.epoch(1))
    job.step(x, y, 0, sums=torch.zeros(2))
    plan = job.method.mixup.plan
    assert plan.batch == 50
    assert (y[plan.perm] - y).abs().max() < 6


# What is refused, and the commands


def test_the_loss_must_suit_the_targets(numbers, plain, task):
    with pytest.raises(ValueError, match="loss cross_entropy needs classes, but sums has numbers"):
        check(replace(plain, loss="cross_entropy"), numbers)
    with pytest.raises(
        ValueError, match="loss mse needs numbers as targets, but blobs has classes"
    ):
        check(plain, task)


def test_ways_of_classes_refuse_numbers(numbers, plain):
    for settings in ({"pairs": "same_class"}, {"label": "remix"}):
        run = replace(plain, method="mine", layers=("hidden1",), **settings)
        with pytest.raises(ValueError, match="needs classes, but sums has numbers as targets"):
            check(run, numbers)


def test_the_recipes_of_a_regression(tmp_path):
    data = datasets.load("diabetes", root=tmp_path)
    for mixing in ("none", "input", "manifold", "c-mixup"):
        run = catalog.recipe("compare", mixing, "diabetes", "mlp")
        assert run.regression
        check(run, data)
    assert catalog.recipe("compare", "c-mixup", "diabetes", "mlp").bandwidth == 100
    assert catalog.recipe("modern", "c-mixup", "diabetes", "mlp").regression


def test_compare_end_to_end(tmp_path, capsys):
    options = ("--methods", "none,manifold,c-mixup", "--seeds", 2, "--epochs", 2, "--workers", 1)
    out = ("--out", tmp_path / "out")
    assert command("compare", "--data", "diabetes", *options, "--bandwidth", 30, *out) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| RMSE ↓ |" in table
    assert "ECE" not in table
    assert "pairs near, bandwidth 30.0" in table
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert "attack" not in content
    assert set(content["summary"][0]["spread"]) == {"rmse", "r2", "seconds"}


def test_train_shows_rmse_and_evaluate_and_report_refuse(tmp_path, capsys):
    run = ("--recipe", "compare", "--data", "diabetes", "--model", "mlp", "--epochs", 1)
    folder = tmp_path / "run"
    assert command("train", *run, "--device", "cpu", "--mixing", "c-mixup", "--out", folder) == 0
    shown = capsys.readouterr().out
    assert "RMSE" in shown
    assert "R²" in shown
    assert "ECE" not in shown
    assert command("evaluate", folder) == 2
    assert "only classifiers can be evaluated, but Diabetes has numbers" in capsys.readouterr().err
    assert command("report", folder, "--out", tmp_path / "page.html") == 2
    assert "predicts numbers, but reports are about classifiers" in capsys.readouterr().err
