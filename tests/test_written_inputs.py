"""Models that write their outputs into the dict that they are given, for the caller to read."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manifold_mixup import ManifoldMixup, MixPlan

Y = torch.tensor([0, 2, 1, 2])
LAM, PERM = 0.25, torch.tensor([1, 2, 3, 0])
UNCLAIMED = "but its targets were not mixed"


def numbers(seed, *shape):
    made = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=made, dtype=torch.double)


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 8)

    def forward(self, batch):
        batch["h"] = self.linear(batch["x"]).tanh()
        return batch


class Head(nn.Module):
    def __init__(self, skip=False):
        super().__init__()
        self.linear, self.skip = nn.Linear(8, 3), skip

    def forward(self, batch):
        logits = self.linear(batch["h"])
        batch["logits"] = logits + batch["x"][:, :3] if self.skip else logits
        return batch


class Writes(nn.Module):
    """A network whose parts write into the batch."""

    def __init__(self, skip=False, key=None):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head, self.key = Encoder(), Head(skip), key
        self.double()

    def forward(self, batch):
        batch = self.head(self.encoder(batch))
        return batch if self.key is None else batch[self.key]


class Record(dict):
    """A mapping of a class of its own."""


def by_hand(model, x, layer):
    """Return the logits of a mixed pass."""

    def mixed(state):
        return LAM * state + (1 - LAM) * state[PERM]

    at = model.encoder.linear(mixed(x) if layer == "input" else x)
    h = (mixed(at) if layer == "encoder.linear" else at).tanh()
    logits = model.head.linear(mixed(h) if layer == "encoder" else h)
    return logits + mixed(x)[:, :3] if model.head.skip else logits


def ends(logits):
    return LAM * cross_entropy(logits, Y) + (1 - LAM) * cross_entropy(logits, Y[PERM])


LAYERS = ["input", "encoder", "encoder.linear"]


@pytest.mark.parametrize("make", [dict, Record], ids=["dict", "mapping"])
@pytest.mark.parametrize("skip", [False, True], ids=["", "skip"])
@pytest.mark.parametrize("key", [None, "logits"])
@pytest.mark.parametrize("layer", LAYERS)
def test_what_the_caller_reads_in_the_batch_is_what_was_returned(layer, key, skip, make):
    model, x = Writes(skip, key), numbers(1, 4, 5)
    options = {} if key else {"outputs": "logits"}
    with ManifoldMixup(model, [layer], seed=0, **options) as mixup:
        batch = make(x=x)
        with mixup.using(MixPlan(layer, LAM, PERM)):
            returned = model(batch)
        returned = returned if key else returned["logits"]
        assert batch["x"] is x  # its own
        assert list(batch) == ["x", "h", "logits"]
        loss = mixup.wrap(nn.CrossEntropyLoss())(batch["logits"], Y)
        expected = ends(by_hand(model, x, layer))
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(returned, batch["logits"])
        ours = torch.autograd.grad(loss, list(model.parameters()))
        theirs = torch.autograd.grad(expected, list(model.parameters()))
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("skip", [False, True], ids=["", "skip"])
@pytest.mark.parametrize("layer", LAYERS)
def test_a_forgotten_wrap_is_noticed_there_too(layer, skip):
    model = Writes(skip)
    with ManifoldMixup(model, [layer], outputs="logits", seed=0):
        batch = {"x": numbers(1, 4, 5)}
        model(batch)
        with pytest.raises(RuntimeError, match=UNCLAIMED):
            cross_entropy(batch["logits"], Y).backward()


def test_in_a_dict_inside_the_batch():
    class Inside(Writes):
        def forward(self, batch):
            inner = batch["inner"]
            inner["h"] = self.encoder.linear(inner["x"]).tanh()
            inner["logits"] = self.head.linear(inner["h"])
            batch["more"] = {"twice": 2 * inner["logits"]}
            return batch

    model, x = Inside(), numbers(1, 4, 5)
    with ManifoldMixup(model, ["input"], seed=0, outputs=["inner.logits", "more.twice"]) as mixup:
        batch = {"inner": {"x": x}}
        inner = batch["inner"]
        with mixup.using(MixPlan("input", LAM, PERM)):
            model(batch)
        assert batch["inner"] is inner
        assert inner["x"] is x
        twice = mixup.wrap(nn.CrossEntropyLoss())(batch["more"]["twice"], Y)
        torch.testing.assert_close(twice, ends(2 * by_hand(model, x, "input")))
        with pytest.raises(RuntimeError, match=UNCLAIMED):
            cross_entropy(inner["logits"], Y).backward()


@dataclasses.dataclass
class Fields:
    x: torch.Tensor
    h: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class Store:
    """Holds tensors by name without being a mapping, as those of graphs do."""

    def __init__(self, x, **items):
        vars(self).update(items, x=x)

    def keys(self):
        return list(vars(self))

    def __getitem__(self, key):
        return vars(self)[key]

    def __setitem__(self, key, value):
        vars(self)[key] = value

    def __iter__(self):
        return iter(vars(self).items())

    def __copy__(self):
        return Store(**vars(self))

    def to(self, device):
        return self


@pytest.mark.parametrize("make", [Fields, Store])
@pytest.mark.parametrize("layer", ["input", "first"])
def test_in_fields(layer, make):
    class OfFields(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(5, 8).double(), nn.Linear(8, 3).double()

        def forward(self, batch):
            batch.h = self.first(batch.x).tanh()
            batch.logits = self.second(batch.h)
            return batch

    model, x = OfFields(), numbers(1, 4, 5)
    with ManifoldMixup(model, [layer], outputs="logits", seed=0) as mixup:
        batch = make(x)
        with mixup.using(MixPlan(layer, LAM, PERM)):
            model(batch)
        assert batch.x is x
        loss = mixup.wrap(nn.CrossEntropyLoss())(batch.logits, Y)
        h = x if layer == "first" else LAM * x + (1 - LAM) * x[PERM]
        h = model.first(h)
        h = LAM * h + (1 - LAM) * h[PERM] if layer == "first" else h
        torch.testing.assert_close(loss, ends(model.second(h.tanh())))
        model(batch)  # with what it wrote into it before
        with pytest.raises(RuntimeError, match=UNCLAIMED):
            cross_entropy(batch.logits, Y).backward()


def test_a_pass_that_fails_leaves_the_batch_as_forward_left_it():
    class Fails(Writes):
        def forward(self, batch):
            super().forward(batch)
            raise KeyError("after")

    model, x = Fails(), numbers(1, 4, 5)
    with ManifoldMixup(model, ["input"], check=False, seed=0):
        batch = {"x": x}
        with pytest.raises(KeyError, match="after"):
            model(batch)
        assert batch["x"] is x
        assert list(batch) == ["x", "h", "logits"]


@pytest.mark.parametrize("layer", LAYERS)
def test_inputs_stay_the_callers_own_if_they_are_handed_out(layer):
    model, x = Writes(), numbers(1, 4, 5).requires_grad_()
    with ManifoldMixup(model, [layer], seed=0, outputs="logits"):
        batch = {"x": x}
        model(batch)
        assert batch["x"] is x
