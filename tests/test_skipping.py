"""Layers that do not run in a pass: plain targets and a count if by chance, else an error."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup
from training import train_step
from zoo import BATCH, CLASSES, TARGET, Skipping, build, example, plan_at


def test_an_exception_being_handled_outside_does_not_switch_the_checks_off():
    model = Skipping()
    ManifoldMixup(model, "never", check=False)
    try:
        raise KeyError
    except KeyError:
        with pytest.raises(RuntimeError, match="'never' should be mixed, but it has never run"):
            model(torch.randn(BATCH, 5))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_skipped_layer_beside_a_compiled_one():
    model = Skipping()
    model.head.compile(backend="eager")
    mixup = ManifoldMixup(model, "dropped", seed=0)
    model(torch.randn(BATCH, 5))
    model.drop = True
    model(torch.randn(BATCH, 5))
    assert mixup.skipped == 1


def test_a_layer_that_ran_in_a_pass_that_failed_is_no_layer_that_never_ran():
    class Fails(nn.Module):
        """Its layer `a` may be dropped, and it may fail at its end."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, CLASSES)
            self.drop = self.fail = False

        def forward(self, x):
            x = self.b(x if self.drop else self.a(x))
            if self.fail:
                raise KeyError
            return x

    model, x = Fails(), torch.randn(BATCH, 5)
    mixup = ManifoldMixup(model, ["a", "b"], check=False, seed=0)
    model.fail = True
    with pytest.raises(KeyError), mixup.using(plan_at("b")):
        model(x)
    model.fail = False
    with mixup.using(plan_at("b")):
        mixup.target(None, model(x))
    model.drop = True
    with mixup.using(plan_at("a")):
        model(x)
    assert mixup.skipped == 1


@pytest.mark.parametrize("check", [True, False])
def test_a_skipped_layer_gives_plain_targets_and_is_counted(check):
    model = Skipping()
    mixup = ManifoldMixup(model, "dropped", check=check, seed=0)
    x, plain = torch.randn(BATCH, 5), nn.CrossEntropyLoss()
    train_step(mixup, model, x)
    assert mixup.plan is not None
    model.drop = True
    output = model(x)
    assert mixup.plan is None
    assert mixup.wrap(plain)(output, TARGET) == plain(output, TARGET)
    assert mixup.skipped == 1
    assert "skipped=1" in repr(mixup)


class LayerDrop(nn.Module):
    """Drops its middle layer at random."""

    def __init__(self, drop):
        super().__init__()
        self.stem, self.middle, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.drop, self.dropped = drop, None

    def forward(self, x):
        h = self.stem(x)
        self.dropped = bool(self.drop())
        return self.head(h if self.dropped else self.middle(h))


@pytest.fixture
def generators():
    """A function that returns the states of the global generators; they are restored afterwards."""

    def states():
        legacy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield states
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


DROPS = {
    "python": lambda: random.random() < 0.5,
    "numpy": lambda: np.random.rand() < 0.5,  # noqa: NPY002
    "below": lambda: torch.rand([]) < 0.6,
    "above": lambda: torch.rand([]) > 0.4,
    "uniform": lambda: torch.empty(1).uniform_(-1, 1) < 0.2,
    "bernoulli": lambda: torch.bernoulli(torch.tensor(0.5)),
}


@pytest.mark.parametrize("given", ["example", "first batch"])
@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_a_layer_dropped_at_random_is_no_error_on_the_first_batch_either(drop, given, generators):
    x, skipped = torch.randn(BATCH, 5), 0
    for seed in range(6):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        model, before = LayerDrop(drop), generators()[:2]
        mixup = ManifoldMixup(
            model, ["stem", "middle"], example=x if given == "example" else None, seed=seed
        )
        assert generators()[:2] == before
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for _ in range(3):
            output = model(x)
            plain = nn.functional.cross_entropy(output, TARGET)
            assert mixup.plan is None or mixup.plan.layer == "stem" or not model.dropped
            loss, plan = criterion(output, TARGET), mixup.plan
            if plan is None or not torch.equal(TARGET[plan.perm], TARGET):  # else equal by chance
                assert torch.equal(loss, plain) == (plan is None)
        skipped += mixup.skipped
    assert 0 < skipped < 18


def put_in_another(model):
    model.fc1 = nn.Linear(5, 8)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put_in_another, "'fc1' is no longer the module"),
        (lambda model: model.fc1._forward_hooks.clear(), "its hooks were removed"),
    ],
)
def test_a_layer_that_lost_its_hook_is_not_taken_for_a_skipped_one(change, text):
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", seed=0)
    train_step(mixup, model, example(model))
    change(model)
    with pytest.raises(RuntimeError, match=text):
        model(example(model))
    train_step(ManifoldMixup(model, "fc1", replace=True), model, example(model))
