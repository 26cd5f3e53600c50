"""A frozen model with a trained head outside of it: no gradient leads back to the mixed pass."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.fixture
def body():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5)).requires_grad_(False)


@pytest.fixture
def head():
    return nn.Linear(5, 3)


@pytest.fixture
def mixup(body):
    with ManifoldMixup(body, ["1"], alpha=1.0, seed=0) as mixup:
        yield mixup


def test_targets_that_are_not_mixed_are_warned_of_at_the_third_step(body, head, mixup):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            cross_entropy(head(body(X)), Y).backward()
    with pytest.warns(UserWarning, match=r"the last one at '1', and their targets were not mixed"):
        body(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):  # said once
            body(X)


def test_two_passes_before_the_loss_a_loss_for_the_log_and_one_by_hand_are_none_of_it(body, mixup):
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for _ in range(3):
        first = body(X)
        with mixup.using(mixup.plan):
            body(X)
        mixup.target(Y, first)
    for _ in range(3):
        criterion(body(X), Y)  # as in training without gradients
    for _ in range(3):
        mixup.target(None, body(X))


def test_a_wrapped_criterion_says_what_to_do(body, head, mixup):
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with pytest.raises(RuntimeError, match=r"which is frozen.* Call mixup.target"):
        criterion(head(body(X)), Y)


def test_the_targets_of_the_features(body, head, mixup):
    for _ in range(3):
        features = body(X)
        loss = mixup.target(Y, features).loss(cross_entropy, head(features))
        plan = mixup.plan
        state = body[1](body[0](X))
        by_hand = head(body[2](plan.lam * state + (1 - plan.lam) * state[plan.perm]))
        ends = cross_entropy(by_hand, Y), cross_entropy(by_hand, Y[plan.perm])
        torch.testing.assert_close(loss, plan.lam * ends[0] + (1 - plan.lam) * ends[1])
        loss.backward()


def test_a_model_that_contains_the_head(body, head):
    model = nn.Sequential(body, head)
    with ManifoldMixup(model, ["0.1"], seed=0) as mixup:
        for _ in range(2):
            mixup.wrap(nn.CrossEntropyLoss())(model(X), Y).backward()
        with pytest.raises(RuntimeError, match="its targets were not mixed"):
            cross_entropy(model(X), Y).backward()


@pytest.mark.parametrize("way", ["paused", "no_grad", "gradient of the input", "eval"])
def test_what_is_not_mixed_or_has_a_gradient_is_not_asked_for(body, mixup, way):
    for _ in range(3):
        if way == "paused":
            with mixup.paused():
                body(X)
        elif way == "no_grad":
            with torch.no_grad():
                body(X)
        elif way == "eval":
            body.eval()(X)
        else:
            body(X.clone().requires_grad_())
