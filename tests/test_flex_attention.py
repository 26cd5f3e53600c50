"""flex_attention: what its functions and block masks read of examples is seen, and refused."""

import functools
import importlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup import ManifoldMixup, find_layers

flex = pytest.importorskip("torch.nn.attention.flex_attention")
pytestmark = [
    pytest.mark.skipif(
        not hasattr(TorchDispatchMode, "supports_higher_order_operators")
        or torch.__version__.startswith("2.10."),
        reason="this PyTorch lets no mode see higher-order operators, or not those of vmap",
    ),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile"),
]
BATCH, TIME, WIDTH = 4, 6, 8
LAYERS = ["embed", "blocks.0"]


@pytest.fixture(autouse=True)
def gradients_on_the_cpu(monkeypatch):
    """Allow gradients on the CPU: PyTorch computes them, but only its tests may ask for them."""
    module = importlib.import_module("torch.nn.attention.flex_attention")
    monkeypatch.setattr(module, "_validate_device", lambda *_: None, raising=False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x, score_mod=None, block_mask=None):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mixed = flex.flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Masked(Block):
    """Makes a function of a mask that it is given."""

    def forward(self, x, valid):
        def score_mod(score, b, h, q, k):
            return torch.where(valid[b, k], score, -float("inf"))

        return super().forward(x, score_mod)


class Net(nn.Module):
    """Attention whose functions `make` returns, given the model and its second input."""

    def __init__(self, make=lambda net, more: (), block=Block):
        super().__init__()
        self.make = make
        self.embed = nn.Linear(3, WIDTH)
        self.blocks = nn.ModuleList([block(), block()])
        self.head = nn.Linear(WIDTH, 5)
        self.distances = nn.Parameter(torch.randn(2 * TIME))

    def forward(self, x, more=None):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h, *self.make(self, more))
        return self.head(h[:, 0])


class Added:
    """A function that is an object."""

    def __init__(self, bias):
        self.bias = bias

    def __call__(self, score, b, h, q, k):
        return score + self.bias[b, k]


def causal(net, more):
    return None, flex.create_block_mask(lambda b, h, q, k: q >= k, None, None, TIME, TIME, "cpu")


def relative(net, more):
    distances = net.distances
    return (lambda score, b, h, q, k: score + distances[q - k + TIME],)


def by_parameter_of_self(net, more):
    return (lambda score, b, h, q, k: score + net.distances[q - k + TIME],)


def padding(net, more):
    def of_keys(b, h, q, k):
        return more[b, k]

    return None, flex.create_block_mask(of_keys, len(more), None, TIME, TIME, "cpu")


def by_closure(net, more):
    return (lambda score, b, h, q, k: torch.where(more[b, k], score, -float("inf")),)


def by_closure_of_a_closure(net, more):
    (inner,) = by_closure(net, more)
    return (lambda *given: inner(*given) * 2,)


def by_default(net, more):
    return (lambda score, b, h, q, k, valid=more: score * valid[b, k],)


def by_object(net, more):
    return (Added(more.float()),)


def by_method(net, more):
    return (Added(more.float()).__call__,)


def by_tuple(net, more):
    held = (more.float(),)
    return (lambda score, b, h, q, k: score + held[0][b, k],)


def by_dict_in_a_list(net, more):
    held = [{"bias": more.float()}]
    return (lambda score, b, h, q, k: score + held[0]["bias"][b, k],)


def by_partial(net, more):
    def added(bias, score, b, h, q, k):
        return score + bias[b, k]

    return (functools.partial(added, more.float()),)


def by_attribute(net, more):
    held = SimpleNamespace(bias=more.float())
    return (lambda score, b, h, q, k: score + held.bias[b, k],)


def by_attribute_of_self(net, more):
    net.bias = more.float()
    return (lambda score, b, h, q, k: score + net.bias[b, k],)


def given(net, more):
    return None, more


def batch():
    torch.manual_seed(0)
    valid = torch.arange(TIME) < torch.tensor([6, 3, 4, 5])[:, None]
    return torch.randn(BATCH, TIME, 3), torch.randint(5, (BATCH,)), valid


@pytest.mark.parametrize("make", [lambda net, more: (), causal, relative, by_parameter_of_self])
def test_what_is_the_same_for_all_examples_is_no_path(make):
    x, _, _ = batch()
    cuts = [row.name for row in find_layers(Net(make), x) if row.cut]
    assert cuts == ["embed", "blocks.0", "blocks.1", "head"]


MAKERS = [padding, by_closure, by_closure_of_a_closure, by_default, by_object, by_method]
MAKERS += [by_tuple, by_dict_in_a_list, by_partial, by_attribute, by_attribute_of_self]


@pytest.mark.parametrize("make", MAKERS)
def test_what_a_function_captured_of_each_example_is_a_path(make):
    x, _, valid = batch()
    cuts = [row.name for row in find_layers(Net(make), x, valid) if row.cut]
    assert cuts == ["blocks.1", "head"]


def test_a_block_mask_of_examples_is_a_path_and_one_of_all_is_none():
    x, _, valid = batch()
    for make, cuts in ((causal, 4), (padding, 2)):
        mask = make(None, valid)[1]
        assert sum(row.cut for row in find_layers(Net(given), x, mask)) == cuts


def test_a_mask_that_a_function_reads_is_refused_with_the_way_out():
    x, y, valid = batch()
    model = Net(lambda net, more: (more,), Masked)
    mixup = ManifoldMixup(model, LAYERS, mask="more", seed=0)
    with pytest.raises(ValueError, match="gives it to flex_attention, whose functions read it as"):
        mixup.wrap(nn.CrossEntropyLoss())(model(x, valid), y)


@pytest.mark.thorough
@pytest.mark.parametrize("make", [causal, relative])
@pytest.mark.parametrize("layer", LAYERS)
def test_outputs_and_gradients_are_those_of_the_pass_by_hand(fresh_compiler, make, layer):
    x, y, _ = batch()
    model = Net(make)
    mixup = ManifoldMixup(model, [layer], seed=0)
    loss = mixup.wrap(nn.CrossEntropyLoss())(model(x), y)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    lam, perm = mixup.plan.lam, mixup.plan.perm
    mixup.remove()
    model.zero_grad()

    h = model.embed(x)
    for block in [None, *model.blocks]:
        h = h if block is None else block(h, *make(model, None))
        if block is (None if layer == "embed" else model.blocks[0]):
            h = lam * h + (1 - lam) * h[perm]
    output = model.head(h[:, 0])
    cross_entropy = nn.functional.cross_entropy
    by_hand = lam * cross_entropy(output, y) + (1 - lam) * cross_entropy(output, y[perm])
    by_hand.backward()
    assert loss.allclose(by_hand)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or gradient.allclose(parameter.grad, atol=1e-6)
