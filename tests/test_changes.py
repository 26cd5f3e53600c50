"""A model whose forward does something else in the middle of training is inspected again."""

import warnings

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, MixPlan
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
    train(steps=2)
    for _ in range(2):
        with pytest.raises(ValueError, match="layer 'body' is bypassed"):
            train()
    model.skips = False
    train(steps=3)
    model.skips = True
    train()  # the second such pass since it was inspected
    with pytest.raises(ValueError, match="layer 'body' is bypassed"):
        train(steps=2)


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


def test_a_change_that_goes_around_nothing_is_inspected_once():
    model, mixup, train = attach(["stem", "body"])
    passes = mixup._attachment.passes
    train(steps=6)
    changed = []
    for step in range(24):
        model.more = "tanh" if step % 8 < 4 else ""  # on and off
        train()
        changed.append(passes.sizes.changed)
    assert changed.count(True) == 1
    assert not passes.sizes.changed


def test_parameters_that_are_frozen_and_partial_batches_may_change():
    model, mixup, train = attach(["input:x"])
    passes, plans = mixup._attachment.passes, []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(40):
            model.stem.requires_grad_(step % 2 == 0)
            model.body.requires_grad_(step % 3 == 0)
            train()
            plans.append(mixup.plan)
    assert passes.sizes._most_changes == 0  # later ones cost nothing any more
    assert not passes.sizes.changed
    assert all(plan is not None for plan in plans)


def test_a_plan_by_hand_counts_too():
    model, mixup, train = attach()
    with mixup.using(MixPlan("body", 0.5, torch.arange(6).flip(0))):
        train(steps=2)
        model.skips = True
        with pytest.raises(ValueError, match="layer 'body' is bypassed"):
            train(steps=4)
