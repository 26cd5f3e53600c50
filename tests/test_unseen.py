"""Paths that operators do not show: ids, derivatives, NumPy, raw memory."""

import copy
import ctypes
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

from graphs import Net, cuts_of, rows_of
from manifold_mixup import ManifoldMixup, find_layers
from states import normal

# Category ids in a floating matrix

MATRIX = torch.cat([torch.randint(9, (6, 2)).float(), normal(6, 3)], 1)


def embedded(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(m.a(torch.cat([m.e(x[:, 1].int()), x[:, 2:4]], 1)).relu())


def one_hot(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(nn.functional.one_hot(x[:, 0].round().long(), 9)[:, :4].float() + m.b(x[:, 1:]))


def table(m: nn.Module, x: Tensor) -> Tensor:
    ids = x.unbind(1)[0].to(torch.int64) + 0
    return m.c(m.e.weight[ids.clamp(0, 8)].repeat(1, 2) + m.b(x[:, 1:]))


def passed_on(m: nn.Module, x: Tensor) -> Tensor:
    return embedded(m, m.i(x))


@pytest.mark.parametrize("forward", [embedded, one_hot, table, passed_on])
def test_ids_in_a_floating_input_are_no_state(forward):
    model = Net(forward, e=nn.Embedding(9, 2), i=nn.Identity())
    found = find_layers(model, MATRIX)
    assert not found.inputs[0].cut
    assert "category ids" in found.inputs[0].reason
    if forward is embedded:
        assert found.default == ("a",)
    with pytest.raises(ValueError, match="casts part of it to integers"):
        ManifoldMixup(model, ["input"], example=MATRIX)
    if forward is passed_on:
        assert "category ids" in rows_of(model, MATRIX)["i"].reason


def test_what_comes_after_the_lookup_is_one():
    model = Net(embedded, e=nn.Embedding(9, 2))
    mixup = ManifoldMixup(model, ["a"], example=MATRIX)
    mixup.assert_verified(MATRIX)


@pytest.mark.parametrize("forward", [embedded, table])
def test_the_proof_sees_ids_by_a_step_beside_lambda_1(forward):
    model = Net(forward, e=nn.Embedding(9, 2))
    report = ManifoldMixup(model, ["input"], check=False).verify(MATRIX)
    assert report.layers[0].verdict == "failed"
    assert "category ids" in report.layers[0].reason


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x > 0).to(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def quantised(m: nn.Module, x: Tensor) -> Tensor:
    levels = m.a(x).mul(8).round().to(torch.int8)
    return m.c(m.b(levels.to(x) / 8 + m.a.weight.sum() * 0))


def nearest_code(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    code = m.e(torch.cdist(h, m.e.weight).argmin(1))
    return m.c(m.b(h + (code - h).detach()))


def routed(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    gate, chosen = h.softmax(1).topk(1)
    return m.c(m.b(h) * gate * m.e.weight[chosen[:, 0]])


FAKE = torch.ao.quantization.FakeQuantize


@pytest.mark.parametrize(
    ("forward", "modules", "accepted"),
    [
        (lambda m, x: m.c(m.b(Spike.apply(m.a(x)))), {}, {"a", "b"}),
        (quantised, {}, {"b"}),
        (lambda m, x: m.c(m.q(m.b(m.a(x)))), {"q": FAKE()}, {"a", "b"}),
        (nearest_code, {"e": nn.Embedding(9, 4)}, {"a", "b"}),
        (routed, {"e": nn.Embedding(4, 4)}, {"a"}),
        (lambda m, x: m.c(m.e(torch.bucketize(x[:, 0], BOUNDS))), {"e": nn.Embedding(9, 4)}, {"e"}),
    ],
    ids=["spikes", "integers", "fake quantised", "nearest code", "top-k", "bins"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_computed_from_values_is_no_id(forward, modules, accepted):
    model, x = Net(forward, **modules), normal(6, 4)
    found = find_layers(model, x)
    assert accepted | {"c"} <= {row.name for row in found.cuts}
    assert found.inputs[0].cut
    mixup = ManifoldMixup(model, ["input", *accepted], example=x)
    report = mixup.verify(x)
    assert all("category" not in proof.reason for proof in report.layers), report


BOUNDS = torch.linspace(-1, 1, 8)


# Derivatives by the input, inside forward


def forces(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.requires_grad_()
    energy = m.c(m.b(m.a(x).sin()).tanh()).sum(1)
    return energy, -torch.autograd.grad(energy.sum(), x, create_graph=True)[0]


def by_backward(m: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    energy = m.c(m.a(x).sin()).sum(1)
    energy.sum().backward(create_graph=True)
    return energy, x.grad


def test_a_layer_whose_derivative_is_taken_inside_is_bypassed():
    model, x = Net(forces), normal(6, 4)
    rows = rows_of(model, x)
    for name in ("a", "b", "c"):
        assert not rows[name].cut
        assert "takes a derivative" in rows[name].reason
    mixup = ManifoldMixup(model, ["input"], example=x)
    mixup.assert_verified(x)
    report = ManifoldMixup(model, ["a", "b"], check=False, replace=True).verify(x)
    assert [proof.verdict for proof in report.layers] == ["failed", "failed"]
    with pytest.raises(ValueError, match=r"'b' is bypassed: forward takes a derivative"):
        ManifoldMixup(model, ["b"], example=x, replace=True)


@pytest.mark.filterwarnings("ignore:Using backward")
def test_by_backward_as_well():
    assert not cuts_of(Net(by_backward), normal(6, 4)) & {"a", "b", "c"}


def test_what_comes_before_or_after_the_derivative_is_a_place():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = m.a(x)
        (slope,) = torch.autograd.grad(m.b(h).tanh().sum(), h, create_graph=True)
        return m.c(slope)

    model, x = Net(forward), normal(6, 4)
    assert cuts_of(model, x) == {"a", "c"}
    ManifoldMixup(model, ["a", "c"], example=x).assert_verified(x)


# Around the operators


class ByPointer(torch.autograd.Function):
    """A kernel on raw memory, like Triton's: no operator writes its result."""

    @staticmethod
    def forward(ctx, x):
        x, out = x.contiguous(), torch.empty_like(x)
        ctypes.memmove(out.data_ptr(), x.data_ptr(), x.numel() * x.element_size())
        return out

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class ByNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        out = torch.empty_like(x)
        out.numpy()[...] = 2 * x.detach().numpy()
        return out

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def by_list(x: Tensor) -> Tensor:
    return torch.tensor(x.tolist(), dtype=x.dtype)


def by_array(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy() * 2)


class Hidden(torch.autograd.Function):
    """Calls compiled code on tensors, which shows neither operators nor pointers."""

    @staticmethod
    def forward(ctx, x):
        out = torch.empty_like(x)
        with torch._C.DisableTorchFunction(), torch.utils._python_dispatch._disable_current_modes():
            out.copy_(x * 2)
        return out

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def by_copy(x: Tensor) -> Tensor:
    return copy.copy(x.detach())


def by_pickle(x: Tensor) -> Tensor:
    return pickle.loads(pickle.dumps(x.detach()))


def by_file(x: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(x.detach(), file)
    file.seek(0)
    return torch.load(file)


def by_storage(x: Tensor) -> Tensor:
    bytes_of = torch.tensor(x.detach().untyped_storage().tolist(), dtype=torch.uint8)
    return bytes_of.view(x.dtype).view(x.shape)


def by_typed_storage(x: Tensor) -> Tensor:
    return torch.tensor(x.detach().storage().tolist(), dtype=x.dtype).view(x.shape)


WAYS = [ByPointer.apply, ByNumpy.apply, by_list, by_array, copy.copy, by_copy]
WAYS += [by_pickle, by_file, by_storage, by_typed_storage]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("way", WAYS)
def test_a_way_around_a_layer_is_seen(way):
    model, x = Net(lambda m, x: m.c(m.b(m.a(x).relu()) + way(x))), normal(6, 4)
    assert cuts_of(model, x) == {"c"}
    with pytest.raises(ValueError, match=r"'b' is bypassed.*Nearest cut points: 'c'"):
        ManifoldMixup(model, ["b"], example=x)
    report = ManifoldMixup(model, ["b", "c"], check=False).verify(x)
    assert [proof.verdict for proof in report.layers] == ["failed", "proven"]


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
@pytest.mark.parametrize("way", WAYS)
def test_a_way_that_passes_through_a_layer_too(way):
    model, x = Net(lambda m, x: m.c(m.b(way(m.a(x).relu())))), normal(6, 4)
    assert cuts_of(model, x) == {"a", "b", "c"}


def test_whose_memory_a_tensor_has_is_known_when_it_is_asked_for():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        h = m.a(x)
        alias = torch.empty(0).set_(h.detach().untyped_storage(), 0, h.shape, h.stride())
        return m.c(m.b(alias) * torch.tensor(2.0))

    assert cuts_of(Net(forward), normal(6, 4)) == {"a", "b", "c"}


def test_what_cannot_be_followed_at_all_is_refused_with_the_way_out():
    model, x = Net(lambda m, x: m.c(m.b(Hidden.apply(m.a(x).relu())))), normal(6, 4)
    rows = rows_of(model, x)
    assert {name for name, row in rows.items() if row.cut} == {"b", "c"}
    assert "outside PyTorch's operators" in rows["a"].reason
    assert "check=False" in rows["a"].reason


def test_memory_that_is_filled_by_operators_is_followed():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        out = torch.empty(0, 4)
        for part in m.a(x).split(2):
            out = torch.cat([out, part])
        buffer = torch.empty(len(x), 4).to(x)
        buffer[:, :2], buffer[:, 2:] = out[:, :2], out[:, 2:]
        scores = torch.baddbmm(
            torch.empty(len(x), 1, 1), buffer[:, None], buffer[..., None], beta=0
        )
        return m.c(buffer * scores[:, 0] + torch.empty_like(x).normal_() * 0)

    assert cuts_of(Net(forward), normal(6, 4)) == {"a", "c"}


def test_a_constant_is_none_of_what_was_copied_out():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        lengths = (x[:, 0] * 0).long().tolist()
        return m.c(m.a(x) * torch.tensor(2.0) * m.scale) * (1 + max(lengths))

    model = Net(forward)
    model.scale = torch.ones(6, 1).new_full((1, 4), 0.5)
    assert cuts_of(model, normal(6, 4)) == {"a", "c"}
