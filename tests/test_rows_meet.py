"""Models whose rows of dimension 0 interact are refused; models that only seem so are not."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from states import normal


class Net(nn.Module):
    """Two linear layers, combined by a function."""

    def __init__(self, forward: object, **modules: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = forward

    def forward(self, *args: Tensor) -> Tensor:
        return self.function(self, *args)


def cuts(model: nn.Module, *args: Tensor) -> list[str]:
    return [row.name for row in find_layers(model, *args) if row.cut]


def reasons(model: nn.Module, *args: Tensor) -> str:
    """Return why no layer of a model can be mixed; the errors of choosing and attaching agree."""
    table = find_layers(model, *args)
    assert not table.cuts
    assert not any(row.cut for row in table.inputs)
    with pytest.raises(ValueError, match="examples"):
        ManifoldMixup(model, ["a"], example=args)
    return table.rows[0].reason


def integrate(m: nn.Module, x: Tensor) -> Tensor:
    """Run leaky neurons step by step, as in spiking networks over (time, batch)."""
    membrane, spikes = torch.zeros_like(x[0]), []
    for step in m.a(x):
        membrane = 0.5 * membrane + step
        spikes.append(torch.sigmoid(4 * (membrane - 1)))
    return m.b(torch.stack(spikes))


def aggregate(m: nn.Module, x: Tensor, edges: Tensor) -> Tensor:
    """Pass messages between nodes along edges."""
    h = m.a(x)
    return m.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]) + h)


EDGES = torch.tensor([[0, 1, 2, 3, 4, 0, 2], [1, 2, 3, 4, 5, 3, 0]])
ATTENTION = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0)


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Net(lambda m, x: m.b(m.r(m.a(x))[0]), r=nn.GRU(4, 4)), (normal(7, 3, 4),)),
        (Net(lambda m, x: m.b(m.r(m.a(x))[0]), r=nn.LSTM(4, 4)), (normal(4, 4, 4),)),
        (Net(lambda m, x: m.b(m.r(m.a(x))), r=ATTENTION), (normal(7, 3, 4),)),
        (Net(lambda m, x: m.b(m.a(x).cumsum(0))), (normal(5, 2, 4),)),
        (Net(integrate), (normal(4, 4, 4),)),
        (Net(aggregate), (normal(6, 4), EDGES)),
        (Net(lambda m, x: m.b((m.a(x) @ x.T).softmax(1) @ m.a(x))), (normal(6, 4),)),
        (Net(lambda m, x: m.b(m.a(x).roll(1, 0) + x)), (normal(6, 4),)),
    ],
    ids=[
        "gru",
        "lstm, time as long as the batch",
        "attention",
        "sum over time",
        "spikes",
        "messages",
        "attention over the batch",
        "neighbours",
    ],
)
def test_rows_that_meet_are_refused_with_the_cause(model, args):
    reason = reasons(model, *args)
    assert "not independent examples" in reason
    for way_out in ("batch_first=True", "a batch dimension", "check=False"):
        assert way_out in reason


class Graph(nn.Module):
    """A model on the nodes of a graph whose adjacency is part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("near", (normal(6, 6, seed=1) > 0).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.near @ self.a(x)).relu())


def test_with_one_batch_size_only_numbers_decide():
    assert "depend on the order of the examples" in reasons(Graph(), normal(6, 4))
    fixed = Net(lambda m, x: m.b(m.a(x) * torch.ones(6, 1)))
    table = find_layers(fixed, normal(6, 4))
    assert table.once
    assert [row.name for row in table.cuts] == ["a", "b"]
    ManifoldMixup(fixed, ["a"], example=normal(6, 4)).remove()


def test_with_one_batch_size_only_a_bypass_by_numbers_is_refused():
    class Fixed(Net):
        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x) * torch.ones(6, 1)
            return self.b(h) + torch.from_numpy(x.detach().numpy().copy()).to(h)

    with pytest.raises(ValueError, match="bypassed"):
        ManifoldMixup(Fixed(None), ["a"], example=normal(6, 4))


def test_what_does_not_run_is_not_accepted_for_its_structure():
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.b(m.a(x) * torch.ones(6, 1)) * 0  # all examples give the same outputs

    with pytest.raises(ValueError, match=r"one batch size only.*set check=False"):
        ManifoldMixup(Net(forward), ["a"], example=normal(6, 4))
    ManifoldMixup(Net(forward), ["a"], check=False)


@pytest.mark.parametrize(
    "features", [nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), nn.Linear(6, 6)]
)
def test_a_single_example_without_a_batch_is_refused(features):
    with pytest.raises(ValueError, match="a batch dimension"):
        ManifoldMixup(nn.Sequential(features, nn.Linear(6, 6)), ["0"], example=normal(6))


# Models that only seem so


def pack(m: nn.Module, x: Tensor) -> Tensor:
    """Attend in a long sequence, with a mask that separates the examples."""
    h = m.a(x).flatten(0, 1)
    owner = torch.arange(len(x)).repeat_interleave(x.shape[1])
    apart = torch.where(owner[:, None] == owner, 0.0, -torch.inf).to(h)
    return m.b(((h @ h.T) + apart).softmax(1) @ h).unflatten(0, x.shape[:2]).mean(1)


def each(m: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([m.b(row) for row in m.a(x)])


def route(m: nn.Module, x: Tensor) -> Tensor:
    """Send every example to one of two experts."""
    h = m.a(x)
    out, chosen = torch.zeros_like(h), h[:, :2].argmax(1)
    for place, expert in enumerate((m.e, m.f)):
        rows = (chosen == place).nonzero()[:, 0]
        out = out.index_add(0, rows, expert(h[rows]))
    return m.b(out)


def pick(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.b(h[torch.arange(len(h)), x[:, :, 0].argmax(1)])


def blend(m: nn.Module, x: Tensor) -> Tensor:
    """Mix the scale of an example with that of another, like MixStyle."""
    h = m.a(x)
    scale = h.std(1, keepdim=True)
    return m.b(h / scale * (0.5 * scale + 0.5 * scale[torch.randperm(len(h))]))


@pytest.mark.parametrize(
    ("model", "x", "accepted"),
    [
        (Net(pack), normal(5, 3, 4), {"a"}),
        (Net(lambda m, x: pack(m, m.n(x)), n=nn.BatchNorm1d(3)), normal(5, 3, 4), {"a"}),
        (Net(each), normal(5, 4), {"a"}),
        (Net(route, e=nn.Linear(4, 4), f=nn.Linear(4, 4)), normal(8, 4), {"a", "b"}),
        (Net(pick), normal(5, 3, 4), {"b"}),
        (Net(blend), normal(5, 4), {"a", "b"}),
        (Net(lambda m, x: m.b(m.n(m.a(x)).T.T), n=nn.BatchNorm1d(4)), normal(5, 4), {"a", "b"}),
    ],
    ids=[
        "packed",
        "packed, norm",
        "a loop over examples",
        "experts",
        "a position each",
        "mixstyle",
        "norm",
    ],
)
def test_examples_that_do_not_meet_are_accepted(model, x, accepted):
    assert accepted <= set(cuts(model, x))
    for name in accepted:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            mixup = ManifoldMixup(model, [name], example=x, replace=True)
        assert mixup.verify(x).ok, mixup.verify(x)


# Models that reorder rows and restore the order


def shuffled(m: nn.Module, x: Tensor) -> Tensor:
    order = torch.randperm(len(x))
    return m.b(m.a(x.index_select(0, order)).index_select(0, order.argsort()))


def sorted_by_size(m: nn.Module, x: Tensor) -> Tensor:
    order = x.sum(1).argsort()
    return m.b(m.a(x[order])[order.argsort()])


def rotated(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x.roll(2, 0)).roll(-2, 0))


def drawn(m: nn.Module, x: Tensor) -> Tensor:
    order = torch.rand(len(x)).argsort()
    return m.b(m.a(x[order])[order.argsort()])


@pytest.mark.parametrize("forward", [shuffled, sorted_by_size, rotated, drawn])
def test_a_layer_between_two_reorderings_is_no_place(forward):
    model = Net(forward)
    rows = {row.name: row for row in find_layers(model, normal(6, 4))}
    assert (rows["a"].cut, rows["b"].cut) == (False, True)
    if forward is not sorted_by_size:  # here the order itself depends on the unmixed states
        assert "a different order there" in rows["a"].reason
    with pytest.raises(ValueError, match=r"Nearest cut points: 'b'"):
        ManifoldMixup(model, ["a"], example=normal(6, 4))


@pytest.mark.parametrize("forward", [shuffled, sorted_by_size, rotated])
def test_numbers_see_it_too(forward):
    mixup = ManifoldMixup(Net(forward), ["a", "b"], check=False)
    report = mixup.verify(normal(6, 4))
    assert [proof.verdict for proof in report.layers] == ["failed", "proven"], report


def test_there_the_outputs_would_be_of_others():
    model, x, perm = Net(rotated), normal(6, 4), torch.tensor([1, 2, 3, 4, 0, 5])
    mixup = ManifoldMixup(model, ["a", "b"], check=False)
    plain = model.eval()(x)
    for layer, right in (("a", False), ("b", True)):
        with mixup.using(MixPlan(layer, torch.tensor(0.0), perm)):
            assert torch.allclose(model(x), plain[perm], atol=1e-6) == right
