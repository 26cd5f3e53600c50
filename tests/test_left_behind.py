"""What a look cannot put back: a fake tensor that is left is an error, which says where it is."""

import gc
import itertools
import types

import pytest
import torch
from torch import Tensor

from looks import FLOATS, Net
from manifold_mixup import ManifoldMixup, find_layers


def generator():
    kept = None
    while True:
        kept = yield kept


RUNNING = generator()
next(RUNNING)
CYCLE = itertools.cycle([[]])
HIDDEN = types.MappingProxyType({"list": []})


def in_a_generator(m, h):
    RUNNING.send(h)
    return h


def in_a_proxy(m, h):
    HIDDEN["list"].append(h)
    return h


def in_a_cycle(m, h):
    next(CYCLE).append(h)
    return h


HOLDERS = {
    "generator": (in_a_generator, r"test_left_behind\.RUNNING", lambda: RUNNING.send(None)),
    "proxy": (in_a_proxy, r"test_left_behind\.HIDDEN\['list'\]", lambda: HIDDEN["list"].clear()),
    "cycle": (in_a_cycle, r"test_left_behind\.CYCLE", lambda: next(CYCLE).clear()),
}


def list_layers(model, where):
    with pytest.raises(RuntimeError, match=rf"fake tensors.*of shape \(\d+, 4\).*{where}\. "):
        find_layers(model, FLOATS)


def verify(model, where):
    mixup = ManifoldMixup(model, ["b"], check=False)
    with pytest.raises(RuntimeError, match=where):  # `verify` does a dry run first
        mixup.verify(FLOATS)


def train(model, where):
    ManifoldMixup(model, ["b"])
    with pytest.raises(RuntimeError, match=rf"{where}\. .*check=False"):
        model(FLOATS)  # not only a warning


# A search among all that the suite has imported takes seconds.
QUICK = [(list_layers, "generator", False), (verify, "proxy", True), (train, "cycle", True)]


@pytest.mark.parametrize(
    ("look", "holder", "frozen"),
    [
        pytest.param(*each, marks=() if each in QUICK else pytest.mark.thorough)
        for each in itertools.product((list_layers, verify, train), HOLDERS, (False, True))
    ],
)
def test_a_fake_tensor_that_is_left_is_an_error(look, holder, frozen, monkeypatch):
    keep, where, clear = HOLDERS[holder]
    model = Net(keep)
    monkeypatch.setattr(gc, "get_freeze_count", lambda: int(frozen))
    (gc.freeze if frozen else gc.unfreeze)()
    try:
        look(model, where)
    finally:
        gc.freeze()  # the collection after each test looks at nothing older than the test
    clear()
    ManifoldMixup(model, ["b"], replace=True, check=False, seed=0)
    assert type(model(FLOATS)) is Tensor
    clear()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_pass_that_gives_a_fake_tensor_after_a_look_is_an_error():
    kept = []

    def keep(m, h):
        return h * kept[0] if kept else h

    model = Net(keep)
    ManifoldMixup(model, ["b"], example=FLOATS)
    mode = torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    mode.of_a_look = True
    kept.append(mode.from_tensor(torch.ones(4)))
    with pytest.raises(RuntimeError, match="computes its output"):
        model(FLOATS)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_fake_tensors_of_the_users_own_are_none_of_ours():
    model = Net(lambda m, h: h)
    ManifoldMixup(model, ["b"], example=FLOATS)
    mode = torch._subclasses.fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    assert type(model(mode.from_tensor(FLOATS))).__name__ == "FakeTensor"
    find_layers(model, FLOATS)


class Looping(torch.autograd.Function):
    """Stores its own output, in a reference cycle that is never freed."""

    @staticmethod
    def forward(ctx, x):
        ctx.kept = [x.exp()]
        return ctx.kept[0]

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.kept[0]


def looping(m, h):
    made = {"h": h.sin()}
    made["self"] = made
    return Looping.apply(made["h"])


def test_a_graph_that_holds_itself_is_nothing_of_the_users():
    assert len(find_layers(Net(looping), FLOATS).cuts) == 3
