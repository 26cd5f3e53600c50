"""A model whose forward does something else in the middle of training is inspected again."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup, MixPlan
from manifold_mixup._checks import Checks
from states import normal

X, Y = normal(6, 5), torch.arange(6) % 3


class Changing(nn.Module):
    """Runs other code as its attributes and its further arguments say."""

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.skips, self.more = False, ""

    def forward(self, x, *others):
        stem = self.stem(x)
        h = self.body(stem).relu()
        if self.skips:
            h = h + stem
        if self.more:
            h = self.body(h).relu() if self.more == "twice" else h.tanh()
        for other in others:
            h = h + other
        return self.head(h)


def attach(layers=("body",)):
    torch.manual_seed(0)
    model = Changing()
    mixup = ManifoldMixup(model, list(layers), seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())

    def train(*inputs, steps=1):
        for _ in range(steps):
            model.zero_grad()
            criterion(model(*(inputs or (X,))), Y).backward()

    return model, mixup, train


def test_a_path_around_the_layer_that_is_switched_on_is_refused():
    model, _, train = attach()
    train(steps=3)
    model.skips = True
    train()
    for _ in range(7):  # in the second such pass, and in all after it
        with pytest.raises(ValueError, match="layer 'body' is bypassed"):
            train()
    model.skips = False
    train(steps=3)
    model.skips = True
    with pytest.raises(ValueError, match="layer 'body' is bypassed"):
        train()


def mixed_by_hand(model, x, plan):
    """Return the loss of a pass with the state of the stem, and what goes around it, mixed."""

    def mixed(state):
        return plan.lam * state + (1 - plan.lam) * state[plan.perm]

    h = model.body(mixed(model.stem(x))).relu()
    output = model.head(h + model.around(mixed(x)) if model.skips else h)
    ends = cross_entropy(output, Y), cross_entropy(output, Y[plan.perm])
    return plan.lam * ends[0] + (1 - plan.lam) * ends[1]


class Around(Changing):
    """Runs a module around its layers in some batches, as its attribute or an argument says."""

    def __init__(self):
        super().__init__()
        self.around = nn.Linear(5, 5)

    def forward(self, x, task="plain", *, skips=False, other=0):
        self.skips = self.skips if task == "kept" else skips or task == "around" or bool(other)
        h = self.body(self.stem(x)).relu()
        return self.head(h + self.around(x) if self.skips else h)


def alternate(calls):
    """Return for each of these calls whether its loss is that of mixing by hand."""
    torch.manual_seed(0)
    model = Around()
    with ManifoldMixup(model, ["stem"], seed=0) as mixup:
        criterion, right = mixup.wrap(nn.CrossEntropyLoss()), []
        for step, call in enumerate(calls):
            x = normal(6, 5, seed=step)
            call = dict(call)
            model.skips = call.pop("kept", model.skips)
            loss = criterion(model(x, **call), Y)
            loss.backward()
            right.append(bool(torch.isclose(loss, mixed_by_hand(model, x, mixup.plan))))
    return right


@pytest.mark.parametrize("period", [2, 3, 7])
def test_a_path_in_some_batches_is_mixed_from_the_third_on(period):
    kept = [step % period == period - 1 for step in range(6 * period)]
    right = alternate([{"task": "kept", "kept": one} for one in kept])
    around = [good for good, one in zip(right, kept, strict=True) if one]
    assert around == [False, False, True, True, True, True]
    assert all(good for good, one in zip(right, kept, strict=True) if not one)


@pytest.mark.parametrize(
    "given", [{"task": "around"}, {"skips": True}, {"other": 3}, {"other": 0.5}], ids=str
)
def test_an_argument_that_chooses_the_path_is_inspected_at_once(given):
    assert all(alternate([{}, {}, given, {}, given, given]))
    assert all(alternate([given, {}, {}, given]))


def test_words_that_are_always_new_are_inspected_a_few_times(monkeypatch):
    looks = count_looks(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(alternate([{"task": f"picture {step}"} for step in range(30)]))
    assert len(looks) == 8


def count_looks(monkeypatch):
    looks, first_batch = [], Checks.first_batch
    monkeypatch.setattr(
        Checks, "first_batch", lambda *given: (looks.append(given), first_batch(*given))[1]
    )
    return looks


def test_more_items_of_a_list_of_inputs_are_inspected():
    _, _, train = attach(["stem"])
    train(X, steps=2)
    with pytest.raises(ValueError, match="layer 'stem'"):
        train(X, normal(6, 5), steps=4)


def test_a_layer_that_runs_twice_now_is_refused_in_that_pass():
    model, _, train = attach()
    train(steps=2)
    model.more = "twice"
    with pytest.raises(RuntimeError, match="2 times"):
        train(steps=1)


def test_a_change_that_goes_around_nothing_is_inspected_once(monkeypatch):
    looks = count_looks(monkeypatch)
    model, _, train = attach(["stem", "body"])
    train(steps=6)
    for step in range(24):
        model.more = "tanh" if step % 8 < 4 else ""  # on and off
        train()
    assert len(looks) == 2


def test_parameters_that_are_frozen_and_partial_batches_may_change(monkeypatch):
    looks, plans = count_looks(monkeypatch), []
    model, mixup, train = attach(["input:x"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(40):
            model.stem.requires_grad_(step % 2 == 0)
            model.body.requires_grad_(step % 3 == 0)
            train()
            plans.append(mixup.plan)
    assert len(looks) <= 5  # later ones cost nothing any more
    assert all(plan is not None for plan in plans)


def test_a_plan_by_hand_counts_too():
    model, mixup, train = attach()
    with mixup.using(MixPlan("body", 0.5, torch.arange(6).flip(0))):
        train(steps=2)
        model.skips = True
        with pytest.raises(ValueError, match="layer 'body' is bypassed"):
            train(steps=4)
