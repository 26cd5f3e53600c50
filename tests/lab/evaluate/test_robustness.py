"""APGD and Square on linear models, whose robust accuracy is known, and on masked gradients."""

import json

import pytest
import torch
from torch import nn

from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import Budget, Settings, evaluate
from manifold_mixup.lab.evaluate.autoattack import apgd, bounds_of, square
from manifold_mixup.lab.evaluate.inference import in_eval_mode
from manifold_mixup.lab.evaluate.robustness import Robustness, sample_rows

pytest.importorskip("pyautoattack", reason="the extra 'attacks' is not installed")

FEW = Budget(steps=20, restarts=2, queries=60, images=30)


def images(count: int = 60, *, side: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.3 + 0.4 * torch.rand(count, 2, side, side, generator=generator)


def linear(classes: int, *, side: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(2 * side * side, classes)).eval()


def provably_robust(model: nn.Module, x, y, *, eps: float) -> torch.Tensor:
    """Whether no other class can win within ε, inside the bounds: linear in the change of x."""
    weight = model[1].weight
    gap = weight[y][:, None] - weight  # (n, classes, features)
    logits = model(x)
    margin = logits.gather(1, y[:, None]) - logits - eps * gap.abs().sum(2)
    return ((margin > 0) | nn.functional.one_hot(y, logits.shape[1]).bool()).all(1)


def of(model, x, y, *, eps=0.05, bounds=(0.0, 1.0), budget=FEW) -> Robustness:
    with in_eval_mode(model):
        return Robustness(model, x, y, eps=eps, bounds=bounds, budget=budget)


def test_apgd_breaks_exactly_what_can_be_broken_with_two_classes():
    model, x = linear(2), images()
    y = model(x).argmax(1)
    robust = provably_robust(model, x, y, eps=0.05)
    assert 5 < robust.sum() < 55
    attacked = apgd(model, x, y, eps=0.05, bounds=(0, 1), steps=30)
    assert torch.equal(model(attacked).argmax(1) == y, robust)


def test_no_attack_breaks_what_cannot_be_broken_or_leaves_the_ball_and_the_bounds():
    model, x = linear(7), images()
    y = model(x).argmax(1)
    robust = provably_robust(model, x, y, eps=0.05)
    bounds = (0.28, 0.72)  # narrower than the ball at some values
    for attacked in (
        apgd(model, x, y, eps=0.05, bounds=bounds, steps=20),
        square(model, x, y, eps=0.05, bounds=bounds, queries=60),
    ):
        survives = model(attacked).argmax(1) == y
        assert survives[robust].all()
        assert not survives.all()
        assert (attacked - x).abs().max() <= 0.05 + 1e-6
        assert bounds[0] <= attacked.min()
        assert attacked.max() <= bounds[1]


def test_square_breaks_what_one_stripe_and_squares_can_with_two_classes():
    # On one pixel the corners of the ball are all there is, and the first stripes try one of them.
    model = linear(2, side=1)
    x = images(200, side=1)
    y = model(x).argmax(1)
    robust = provably_robust(model, x, y, eps=0.2)
    attacked = square(model, x, y, eps=0.2, bounds=(0, 1), queries=40)
    assert torch.equal(model(attacked).argmax(1) == y, robust)


def test_units_of_the_data_do_not_matter():
    model, x = linear(3), images()
    y = model(x).argmax(1)

    class Shifted(nn.Module):
        def forward(self, x):
            return model((x + 1) / 4)

    for attack, spent in ((apgd, {"steps": 10}), (square, {"queries": 30})):
        plain = attack(model, x, y, eps=0.05, bounds=(0, 1), **spent)
        wide = attack(Shifted(), 4 * x - 1, y, eps=0.2, bounds=(-1, 3), **spent)
        survives = model(plain).argmax(1) == y
        assert 0 < survives.sum() < len(y)
        assert torch.equal(model((wide + 1) / 4).argmax(1) == y, survives)


def test_attacks_stay_in_the_ball_and_the_bounds_whatever_rounding_does():
    model, bounds = linear(3), (-500.1, 4321.7)  # far from 0 to 1, in which the attack computes
    x = (1e4 * images(20) - 3000).clamp(*bounds)
    y = model(x).argmax(1)
    attacked = apgd(model, x, y, eps=999.9, bounds=bounds, steps=3)
    assert (attacked - x).abs().max() > 999
    assert ((attacked <= x + 999.9) & (attacked >= x - 999.9)).all()
    assert ((attacked <= bounds[1]) & (attacked >= bounds[0])).all()


def test_data_without_bounds_are_not_clipped():
    model, x = linear(2), images() * 40 - 20
    y = model(x).argmax(1)
    robust = provably_robust(model, x, y, eps=0.8)
    assert 0 < robust.sum() < len(y)
    bounds = bounds_of(x, None, reach=0.8)
    attacked = apgd(model, x, y, eps=0.8, bounds=bounds, steps=30)
    assert torch.equal(model(attacked).argmax(1) == y, robust)
    assert bounds == (x.min().item() - 0.8, x.max().item() + 0.8)
    assert bounds_of(x, (0.0, 1.0), reach=0.8) == (0, 1)


def test_attacks_repeat_and_draw_nothing_from_the_global_generator():
    model, x = linear(4), images(20)
    y, before = model(x).argmax(1), torch.get_rng_state()
    ends = [
        [
            apgd(model, x, y, eps=0.02, bounds=(0, 1), steps=1, seed=seed),
            square(model, x, y, eps=0.02, bounds=(0, 1), queries=10, seed=seed),
        ]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, ends[0], ends[1]))
    assert not any(map(torch.equal, ends[0], ends[2]))


class Rounded(nn.Module):
    """Rounds its inputs to tenths, whose gradient is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.model = linear(3)

    def forward(self, x):
        return self.model((10 * x).round() / 10)


class Detached(Rounded):
    """Has no gradient with respect to its inputs at all."""

    def forward(self, x):
        return self.model(x.detach())


class Astray(Rounded):
    """Has the values of a linear model, and the gradients of its negative."""

    def forward(self, x):
        logits = self.model(x)
        return 2 * logits.detach() - logits


@pytest.mark.parametrize(
    ("kind", "says"), [(Rounded, "are zero or NaN on 60 of the 60"), (Detached, "Detached have no")]
)
def test_gradients_that_vanish_are_said_and_not_reported_as_robust(kind, says):
    model, x = kind().eval(), images()
    found = of(model, x, model(x).argmax(1))
    row = found.row(found.by_apgd, white=True)
    assert row["accuracy"] is row["low"] is row["high"] is None
    assert 0 < row["survived"] <= 60  # a random start may be predicted wrong
    assert says in row["note"]
    assert "note" not in found.row(found.right, white=False)
    assert found.free_row()["accuracy"] is None
    assert found.row(found.at_shares[-1], white=True)["accuracy"] is None
    assert found.row(found.by_square, white=False)["accuracy"] < 100  # it needs no gradients
    assert f"Square breaks {found.compared()['only_square']} images" in found.compared()["note"]


def test_gradients_that_lead_astray_are_found_by_the_other_two_checks():
    model, x = Astray().eval(), images()
    found = of(model, x, model(x).argmax(1))
    assert not found.blind.any()
    assert found.row(found.by_apgd, white=True)["accuracy"] > 80
    assert "the model is less robust than APGD says" in found.compared()["note"]
    free = found.free_row()
    assert free["survived"] > 0
    assert f"{free['survived']} of 60 images survive" in free["note"]


def test_nothing_is_noted_of_a_model_whose_gradients_lead_somewhere():
    model, x = linear(3), images()
    found = of(model, x, model(x).argmax(1))
    assert found.free_row()["accuracy"] == 0
    rows = found.free_row(), found.compared(), found.row(found.by_apgd, white=True)
    assert all("note" not in row for row in rows)


def test_gradients_of_nan_attack_nothing():
    class Broken(nn.Module):
        def forward(self, x):
            zero = (x - x.detach()).flatten(1).sum(1, keepdim=True)
            return torch.tensor([[1.0, 0.0]]) + zero.abs().sqrt()  # 0, with a slope of infinity · 0

    x, y = images(10), torch.zeros(10, dtype=torch.long)
    found = of(Broken(), x, y)
    assert found.blind.all()
    assert found.row(found.by_apgd, white=True)["survived"] == 10


@pytest.mark.parametrize(
    ("only_square", "only_apgd", "said"), [(4, 0, 0), (5, 0, 1), (9, 3, 0), (0, 9, 0)]
)
def test_the_sign_test_says_when_square_breaks_more(only_square, only_apgd, said):
    from scipy.stats import binomtest

    total = only_square + only_apgd
    left = torch.ones(2, 40, dtype=torch.bool)
    left[0, :only_apgd] = left[1, only_apgd:total] = False
    found = of(linear(2), images(40), torch.zeros(40).long())
    vars(found).update(by_apgd=left[0], by_square=left[1])
    row = found.compared()
    assert (row["only_square"], row["only_apgd"]) == (only_square, only_apgd)
    assert ("note" in row) == bool(said)
    reference = binomtest(only_square, total, alternative="greater").pvalue
    assert (reference < 0.05) == bool(said)


def task(x: torch.Tensor, *, bounds: tuple[float, float] | None = (0.0, 1.0)) -> Data:
    y = (x.flatten(1).sum(1) > x.flatten(1).sum(1).median()).long()
    return Data("sums", x, y, x, y, classes=2, eps=0.05, space="pixel space [0, 1]", bounds=bounds)


def test_the_battery_has_the_numbers_their_intervals_and_the_curve():
    data, settings = task(images(side=6)), Settings(seed=3, budget=FEW)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = models.build("cnn", data, width=4)
    found = evaluate(model, data, battery=["robustness", "apgd"], settings=settings)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    rows = {row["name"]: row for row in found["robustness"]}
    chosen_by_us = {"name", "note", "eps", "space", "steps", "restarts", "queries"}
    for part in ("robustness", "apgd"):
        keys = {key for row in found[part] for key in row} - chosen_by_us
        assert keys < set(found["units"])
    assert list(rows) == ["no attack", "APGD", "Square", "APGD and Square", "APGD without a bound"]
    picked = sample_rows(60, 30, generator=torch.Generator().manual_seed(3))
    assert len(picked.unique()) == 30
    right = (model.eval()(data.x[picked]).argmax(1) == data.y[picked]).sum().item()
    assert rows["no attack"]["survived"] == right
    assert {row["images"] for row in rows.values()} == {30}
    assert rows["APGD"]["steps"] == 20
    assert rows["Square"]["queries"] == 60
    assert rows["APGD and Square"]["survived"] <= min(
        rows[name]["survived"] for name in ("APGD", "Square")
    )
    for row in rows.values():
        assert row["low"] <= row["accuracy"] <= row["high"]
    (curve,) = found["apgd"]
    assert curve["eps"] == pytest.approx([0, 0.0125, 0.025, 0.05, 0.1])
    assert curve["accuracy"][0] == rows["no attack"]["accuracy"]
    assert curve["accuracy"][3] <= rows["APGD"]["accuracy"]
    assert curve["accuracy"] == sorted(curve["accuracy"], reverse=True)


def test_vectors_are_attacked_by_apgd_alone():
    data = task(images().flatten(1), bounds=None)
    model = nn.Sequential(nn.Linear(32, 2))
    found = evaluate(model, data, battery=["robustness"], settings=Settings(budget=FEW))
    names = [row["name"] for row in found["robustness"]]
    assert names == ["no attack", "APGD", "APGD without a bound"]
    with pytest.raises(ValueError, match=r"images only, but the inputs have shape \(60, 32\)"):
        square(model, data.x, data.y, eps=0.1, bounds=(0, 1))


def test_a_budget_below_one_is_refused():
    for name in ("steps", "restarts", "queries", "images"):
        with pytest.raises(ValueError, match=f"{name} is 0. Expected 1 or more"):
            Budget(**{name: 0})
