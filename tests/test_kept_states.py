"""What a model keeps for each example besides its inputs, such as the state of a recurrent net."""

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, MixPlan

X = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0))
LAM, PERM = 0.25, torch.tensor([1, 2, 3, 0])


class Stateful(nn.Module):
    """A recurrent network that goes on from its last state, if it has one."""

    def __init__(self, *, writes=True):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cell = nn.Linear(3, 6), nn.GRUCell(6, 8)
        self.head, self.writes, self.state = nn.Linear(8, 2), writes, None

    def forward(self, x):
        state = x.new_zeros(len(x), 8) if self.state is None else self.state
        for step in self.embed(x).unbind(1):
            state = self.cell(step, state)
        if self.writes:
            self.state = state.detach()
        return self.head(state)


class OfTwo(Stateful):
    """The same with an LSTM, whose state is a pair with the batch at dimension 1."""

    def __init__(self, *, writes=True):
        super().__init__(writes=writes)
        self.cell = nn.LSTM(6, 8, batch_first=True)

    def forward(self, x):
        out, state = self.cell(self.embed(x), self.state)
        if self.writes:
            self.state = tuple(part.detach() for part in state)
        return self.head(out[:, -1])


class Memory:
    """An object that is no module."""

    def __init__(self):
        self.state = None


class OfAnObject(Stateful):
    """The same, with its state in an object."""

    def __init__(self, *, writes=True):
        self.__dict__["memory"] = Memory()
        super().__init__(writes=writes)

    @property
    def state(self):
        return self.memory.state

    @state.setter
    def state(self, state):
        self.memory.state = state


MODELS = [Stateful, OfTwo, OfAnObject]


def kept(kind):
    """Return the attribute that leads to the state."""
    return "memory" if kind is OfAnObject else "state"


def begun(kind, **options):
    """Return a model that has a state for each of four examples."""
    model = kind(**options)
    first = torch.randn(1, 4, 8)
    model.state = (first, torch.randn(1, 4, 8)) if kind is OfTwo else first[0]
    return model


@pytest.mark.parametrize("writes", [True, False])
@pytest.mark.parametrize("kind", MODELS)
def test_a_layer_before_a_state_for_each_example_is_refused_by_its_name(kind, writes):
    model = begun(kind, writes=writes)
    shape = r"\(1, 4, 8\)" if kind is OfTwo else r"\(4, 8\)"
    seen = rf"keeps for each example .*, {kind.__name__}.{kept(kind)} of shape {shape}"
    with pytest.raises(ValueError, match=seen):
        ManifoldMixup(model, ["embed"], example=X)
    mixup = ManifoldMixup(model, ["embed"], check=False)
    (proof,) = mixup.verify(X).layers
    assert proof.verdict == "failed"
    mixup.remove()


@pytest.mark.parametrize("kind", MODELS)
def test_a_layer_after_it_is_right(kind):
    model = begun(kind, writes=False)
    with ManifoldMixup(model, ["cell" if kind is OfTwo else "head"], seed=0) as mixup:
        mixup.assert_verified(X)
        with mixup.using(MixPlan(mixup.layers[0], 0.0, PERM)):
            mixed = model(X)
        mixup.target(None, mixed)
        with mixup.paused():
            torch.testing.assert_close(mixed, model(X)[PERM])


@pytest.mark.parametrize("kind", MODELS)
def test_begun_without_it_all_is_right(kind):
    model = kind()
    with ManifoldMixup(model, ["embed"], seed=0) as mixup:
        mixup.assert_verified(X)
        for _ in range(2):
            model.state = None
            mixup.wrap(nn.MSELoss())(model(X), torch.zeros(4, 2)).backward()


@pytest.mark.parametrize("example", [X, None])
@pytest.mark.parametrize("kind", MODELS)
def test_a_state_that_the_first_batch_leaves_is_noticed_at_the_second(kind, example):
    model = kind()
    with ManifoldMixup(model, ["embed"], example=example, seed=0) as mixup:
        mixup.wrap(nn.MSELoss())(model(X), torch.zeros(4, 2)).backward()
        before = mixup.state_dict()
        with pytest.raises(ValueError, match=rf"{kind.__name__}.{kept(kind)} of shape"):
            model(X)
        assert mixup.state_dict() == before


class Resetting(Stateful):
    """The same, which begins anew where the number of examples changes."""

    def forward(self, x):
        if self.state is not None and len(self.state) != len(x):
            self.state = None
        return super().forward(x)


def test_a_state_that_is_reset_for_another_number_of_examples_is_noticed_too():
    x = torch.randn(8, 5, 3)
    model = Resetting()
    with ManifoldMixup(model, ["embed"], seed=0) as mixup:
        mixup.wrap(nn.MSELoss())(model(x), torch.zeros(8, 2)).backward()
        (proof,) = mixup.verify(x).layers
        assert (proof.verdict, "Resetting.state of shape (8, 8)" in proof.reason) == (
            "failed",
            True,
        )
        with pytest.raises(ValueError, match="kept tensors of the batch before"):
            model(x)
    with ManifoldMixup(model, ["head"], seed=0) as mixup:  # after the state is read
        for _ in range(2):
            mixup.wrap(nn.MSELoss())(model(x), torch.zeros(8, 2)).backward()


def test_what_is_left_and_never_read_costs_one_look(monkeypatch):
    from manifold_mixup._checks import Checks

    class Shown(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head, self.shown = nn.Linear(3, 6), nn.Linear(6, 2), None

        def forward(self, x):
            self.shown = self.embed(x).softmax(-1)
            return self.head(self.shown.mean(1))

    looks, first_batch = [], Checks.first_batch
    monkeypatch.setattr(
        Checks, "first_batch", lambda *given: (looks.append(given), first_batch(*given))[1]
    )
    model = Shown()
    with ManifoldMixup(model, ["embed"], seed=0) as mixup:
        for _ in range(4):
            mixup.wrap(nn.MSELoss())(model(X), torch.zeros(4, 2)).backward()
    assert len(looks) == 2


def test_the_way_out_is_one_plan_for_the_whole_sequence():
    model, parts = Stateful(), X.split(2, 1)
    plan = MixPlan("embed", LAM, PERM)
    with ManifoldMixup(model, ["embed"], check=False) as mixup, mixup.using(plan):
        for part in parts:
            output = model(part)
        mixup.target(None, output)
    states = model.embed(X)
    states, state = LAM * states + (1 - LAM) * states[PERM], torch.zeros(4, 8)
    for step in states.unbind(1):
        state = model.cell(step, state)
    torch.testing.assert_close(output, model.head(state))


def test_what_is_kept_for_a_batch_as_a_whole_is_none_of_it():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 4)  # four features as well
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x):
            h = self.head(self.norm(x))
            self.mean = 0.9 * self.mean + 0.1 * h.mean(0).detach()
            return h - self.mean

    with ManifoldMixup(Counted(), ["head"], seed=0) as mixup:
        mixup.assert_verified(torch.randn(4, 4))
