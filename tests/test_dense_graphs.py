"""Graphs with a dense adjacency, which is mixed where modules after the layer receive it."""

import copy

import pytest
import torch
from torch import nn

from carrying import mixed
from dense_graphs import NODES, ROWS, DenseNet, dense_example, dense_net
from graphs import refused, rows_of
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._masks import mix_states

PERM = torch.tensor([3, 5, 1, 0, 2, 4])
LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, ROWS)}
X, ADJ = dense_example()
MASK = torch.arange(NODES) < torch.tensor([5, 3, 4, 2, 5, 3])[:, None]


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lam", LAMS)
@pytest.mark.parametrize("layer", DenseNet.layers)
def test_outputs_and_gradients_are_those_of_the_pass_by_hand(layer, lam):
    model, plan = dense_net(), MixPlan(layer, LAMS[lam], PERM)
    mixup, oracle = ManifoldMixup(model, [layer], example=(X, ADJ)), copy.deepcopy(model)
    with mixup.using(plan):
        output = model(X, ADJ)
    expected = oracle.by_hand(plan, X, ADJ)
    mixup.target(None, output)
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(gradients(model), gradients(oracle))


def test_the_adjacency_is_part_of_the_cut_set():
    table = find_layers(dense_net(), X, ADJ)
    rows = {row.name: row for row in table}
    given = [(carry.source, carry.layer) for carry in rows["conv1"].carries]
    assert given == [("adj", "conv2"), ("adj", "conv3")]
    assert not rows["conv3"].carries
    assert "with 'adj' in 'conv2', 'adj' in 'conv3'" in str(table)
    assert ManifoldMixup(dense_net(), DenseNet.layers, check=False).verify(X, ADJ).ok


@pytest.mark.parametrize("dtype", [torch.bool, torch.long])
def test_an_adjacency_of_integers_cannot_be_interpolated(dtype):
    table = find_layers(dense_net(), X, ADJ.to(dtype))
    assert [row.name for row in table.cuts] == ["conv3", "pool", "head"]
    assert "the side input 'adj' is still read after it" in refused(table, "conv1")
    with pytest.raises(ValueError, match="'adj'"):
        ManifoldMixup(dense_net(), ["conv2"], example=(X, ADJ.to(dtype)))


class Inside(DenseNet):
    """Reads the adjacency in the model's own code."""

    def forward(self, x, adj):
        return self.head(self.pool(adj @ self.conv1(x, adj)))


def test_an_adjacency_that_no_module_receives_bypasses_the_layer():
    model = Inside().double()
    assert (
        "reads 'adj' of shape (6, 5, 5); it would be mixed too if a module received it"
        in rows_of(model, X, ADJ)["conv1"].reason
    )
    report = ManifoldMixup(model, ["conv1", "pool"], check=False).verify(X, ADJ)
    assert [proof.verdict for proof in report.layers] == ["failed", "proven"]


def test_a_mask_of_nodes_is_mixed_as_a_padding_mask_or_refused():
    rows = rows_of(dense_net(), X, ADJ, MASK)
    assert "the side input 'mask' is still read after it" in rows["conv1"].reason
    with pytest.raises(ValueError, match="'mask'"):
        ManifoldMixup(dense_net(), ["conv1"], example=(X, ADJ, MASK))
    model = dense_net()
    mixup = ManifoldMixup(model, ["conv3"], example=(X, ADJ, MASK), mask="mask")
    plan = MixPlan("conv3", LAMS["one λ"], PERM)
    with mixup.using(plan):
        output = model(X, ADJ, MASK)
    oracle = dense_net()
    h = oracle.conv2(oracle.conv1(X, ADJ, MASK), ADJ, MASK)
    h = mix_states(oracle.conv3(h, ADJ, MASK), plan.lam, plan.perm, MASK)
    expected = oracle.head(oracle.pool(h, mixed(MASK.double(), plan)))
    torch.testing.assert_close(output, expected)


class Pooled(nn.Module):
    """DiffPool: nodes are assigned to clusters, whose adjacency is computed."""

    def __init__(self):
        from torch_geometric.nn import DenseGCNConv, dense_diff_pool

        super().__init__()
        self.conv1, self.embed = DenseGCNConv(3, 4), DenseGCNConv(4, 4)
        self.assign, self.conv2 = DenseGCNConv(4, 2), DenseGCNConv(4, 4)
        self.cluster = Cluster(dense_diff_pool)
        self.head = nn.Linear(4, 3)

    def forward(self, x, adj):
        h = self.conv1(x, adj).tanh()
        h, coarse = self.cluster(self.embed(h, adj), adj, self.assign(h, adj))
        return self.head(self.conv2(h, coarse).mean(1))


class Cluster(nn.Module):
    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, h, adj, assigned):
        return self.pool(h, adj, assigned)[:2]


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("layer", ["conv1", "embed", "cluster", "conv2"])
def test_a_differentiable_pooling(layer):
    pytest.importorskip("torch_geometric")
    torch.manual_seed(0)
    model = Pooled().double()
    mixup, oracle = ManifoldMixup(model, [layer], example=(X, ADJ)), copy.deepcopy(model)
    plan = MixPlan(layer, LAMS["one λ"], PERM)
    with mixup.using(plan):
        output = model(X, ADJ)
    at = lambda name, *all_: [mixed(h, plan) if plan.layer == name else h for h in all_]  # noqa: E731
    h, adj = at("conv1", oracle.conv1(X, ADJ), ADJ)
    h = h.tanh()
    embedded, h, adj = at("embed", oracle.embed(h, adj), h, adj)
    h, coarse = at("cluster", *oracle.cluster(embedded, adj, oracle.assign(h, adj)))
    (h,) = at("conv2", oracle.conv2(h, coarse))
    torch.testing.assert_close(output, oracle.head(h.mean(1)))
