"""Layers inside a function with its own backward, as reversible layers are."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd import Function

from manifold_mixup import ManifoldMixup, MixPlan, find_layers, mix

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1, 0, 2])
PERM = torch.tensor([1, 2, 3, 4, 5, 0])


class Pair(nn.Module):
    """A layer whose input can be computed from its output."""

    def __init__(self):
        super().__init__()
        self.f, self.g = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        a, b = x.chunk(2, 1)
        a = a + self.f(b).tanh()
        return torch.cat([a, b + self.g(a).tanh()], 1)

    def inverse(self, y):
        a, b = y.chunk(2, 1)
        b = b - self.g(a).tanh()
        return torch.cat([a - self.f(b).tanh(), b], 1)


def gradient(pairs, output, given):
    """Reconstruct the input of each pair from its output, as RevNets and Reformer do."""
    for pair in reversed(pairs):
        with torch.no_grad():
            state = pair.inverse(output)
        with torch.enable_grad():
            pair(state.requires_grad_()).backward(given)
        output, given = state.detach(), state.grad
    return given


def run(pairs, x):
    for pair in pairs:
        x = pair(x)
    return x


def run_and_save(ctx, x, pairs):
    x = run(pairs, x)
    ctx.pairs = pairs
    ctx.save_for_backward(x.detach())
    return x


class Reversible(Function):
    @staticmethod
    def forward(ctx, x, pairs):
        return run_and_save(ctx, x, pairs)

    @staticmethod
    def backward(ctx, given):
        return gradient(ctx.pairs, *ctx.saved_tensors, given), None


class ReversibleWithSetup(Function):
    @staticmethod
    def forward(x, pairs):
        return run(pairs, x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.pairs = inputs[1]
        ctx.save_for_backward(output.detach())

    @staticmethod
    def backward(ctx, given):
        return gradient(ctx.pairs, *ctx.saved_tensors, given), None


def run_pairs(ctx, x, pairs):
    return run_and_save(ctx, x, pairs)


OfOtherNames = type(
    "OfOtherNames",
    (Function,),
    {"forward": staticmethod(run_pairs), "backward": staticmethod(Reversible.backward)},
)


class InvertibleCheckpointFunction(Reversible):
    """As MemCNN names its own."""

    @staticmethod
    def forward(ctx, x, pairs):
        return run_and_save(ctx, x, pairs)


class Offloaded_Gradient_Checkpointer(Function):
    """A checkpoint, named as Unsloth names its own."""

    @staticmethod
    def forward(ctx, x, pairs):
        ctx.pairs = pairs
        ctx.save_for_backward(x)
        return run(pairs, x)

    @staticmethod
    def backward(ctx, given):
        x = state = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            state = run(ctx.pairs, state)
        torch.autograd.backward(state, given)
        return x.grad, None


class Body(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.pairs = nn.ModuleList(Pair() for _ in range(3))

    def forward(self, x):
        if self.function is not None:
            return self.function.apply(x, self.pairs)
        return run(self.pairs, x)


def build(function):
    torch.manual_seed(0)
    parts = {"stem": nn.Linear(4, 4), "body": Body(function), "head": nn.Linear(4, 3)}
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model.double()


either = pytest.mark.parametrize("function", [Reversible, ReversibleWithSetup])
every = pytest.mark.parametrize(
    "function", [Reversible, ReversibleWithSetup, OfOtherNames, InvertibleCheckpointFunction]
)


@either
def test_layers_inside_are_refused_and_those_around_are_chosen(function):
    rows = {row.name: row for row in find_layers(build(function), X)}
    assert rows["stem"].cut
    assert rows["body"].cut
    inside = [name for name in rows if name.startswith("body.pairs.")]
    assert not any(rows[name].cut for name in inside)
    assert f"it runs inside {function.__name__}, a torch" in rows["body.pairs.1"].reason
    plain = {row.name: row for row in find_layers(build(None), X)}
    assert plain["body.pairs.1"].cut


@every
@pytest.mark.parametrize("check", [True, False])
def test_a_layer_inside_raises_before_it_is_mixed(function, check):
    model = build(function)
    mixup = ManifoldMixup(model, ["body.pairs.1"], check=check, seed=0)
    with pytest.raises(ValueError, match=rf"'body.pairs.1'.*runs inside {function.__name__}"):
        model(X)
    mixup.remove()
    model(X).sum().backward()


@either
def test_a_layer_inside_raises_while_it_is_compiled(fresh_compiler, function):
    model = torch.compile(build(function), backend="eager")
    ManifoldMixup(model, ["body.pairs.1"], check=False, seed=0)
    with pytest.raises(RuntimeError, match=rf"'body.pairs.1'.*runs inside {function.__name__}"):
        model(X)


@pytest.mark.parametrize("check", [True, False])
def test_a_layer_inside_a_checkpoint_of_others_is_mixed_again_in_backward(check):
    model, plain = build(Offloaded_Gradient_Checkpointer), build(None)
    mixup = ManifoldMixup(model, ["body.pairs.1"], check=check, seed=0)
    criterion = nn.CrossEntropyLoss()
    mixup.wrap(criterion)(model(X), Y).backward()
    plan = mixup.plan
    first, second, third = plain.body.pairs
    output = plain.head(third(mix(second(first(plain.stem(X))), plan)))
    expected = plan.lam * criterion(output, Y) + (1 - plan.lam) * criterion(output, Y[plan.perm])
    expected.backward()
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@either
@pytest.mark.parametrize("layer", ["stem", "body"])
def test_layers_around_have_the_gradients_of_the_model_without_the_function(function, layer):
    model, plain = build(function), build(None)
    mixup = ManifoldMixup(model, [layer], seed=0)
    criterion = nn.CrossEntropyLoss()
    loss = mixup.wrap(criterion)(model(X), Y)
    loss.backward()
    plan = mixup.plan
    state = plain.stem(X)
    state = plain.body(mix(state, plan)) if layer == "stem" else mix(plain.body(state), plan)
    output = plain.head(state)
    expected = plan.lam * criterion(output, Y) + (1 - plan.lam) * criterion(output, Y[plan.perm])
    expected.backward()
    assert loss.item() == pytest.approx(expected.item())
    for own, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad)


@either
def test_without_gradients_a_layer_inside_is_mixed(function):
    model, plain = build(function), copy.deepcopy(build(None))
    mixup = ManifoldMixup(model, ["body.pairs.0"], check=False)
    plan = MixPlan("body.pairs.0", torch.tensor(0.3), PERM)
    with mixup.using(plan), torch.no_grad():
        output = model(X)
    first, *others = plain.body.pairs
    state = run(others, mix(first(plain.stem(X)), plan))
    torch.testing.assert_close(output, plain.head(state))


def test_a_frozen_part_under_no_grad_is_no_such_function():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            with torch.no_grad():
                x = self.features(x)
            return self.head(x)

    model = Frozen().double()
    mixup = ManifoldMixup(model, ["features"], example=X)
    mixup.wrap(nn.CrossEntropyLoss())(model(X), Y).backward()
    assert mixup.plan.layer == "features"
