"""Batches of graphs: mixed after the pooling, by a plan over graphs; nodes are refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from architectures import disagreeing, layers_in, prove_by_hand
from batched_graphs import WIDTH, Conv, GraphNet, Mean, OfOneArgument, batch_of, build
from carrying import mixed
from graphs import refused, rows_of
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._graphs import graphs_in, numberings

SIZES = [3, 5, 4, 6, 3]
PERM = torch.tensor([3, 0, 4, 1, 2])
LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, len(SIZES))}
DATA = batch_of(SIZES)
GIVEN = DATA.x, DATA.edge_index, DATA.batch
Y = torch.tensor([0, 2, 1, 1, 0])

CALLS = {
    "tensors": (GraphNet, GIVEN, {}, None),
    "names": (GraphNet, GIVEN[:2], {"batch": DATA.batch}, None),
    "with edges": (GraphNet, GIVEN, {"edge_attr": DATA.edge_attr}, DATA.edge_attr),
    "with a size": (GraphNet, GIVEN, {"batch_size": len(SIZES)}, None),
    "a dataclass": (OfOneArgument, (DATA,), {}, DATA.edge_attr),
    "a dict": (OfOneArgument, (vars(DATA),), {}, DATA.edge_attr),
}
THOROUGH = pytest.mark.thorough


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(model, mixup, plan, args, kwargs, edge_attr, run=None):
    oracle = copy.deepcopy(model)
    expected = oracle.by_hand(plan, DATA, edge_attr)
    F.cross_entropy(expected, Y).backward()
    with mixup.using(plan):
        output = (model if run is None else run)(*args, **kwargs)
    mixup.target(None, output)
    F.cross_entropy(output, Y).backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(model), gradients(oracle))


@pytest.fixture(scope="module", params=CALLS)
def inspected(request):
    """A model whose first batch was inspected, and how it is called."""
    kind, args, kwargs, edge_attr = CALLS[request.param]
    model = build(kind)
    mixup = ManifoldMixup(model, GraphNet.layers)
    mixup.target(None, model(*args, **kwargs))
    return model, mixup, (args, kwargs, edge_attr)


@pytest.mark.parametrize("lam", LAMS)
@pytest.mark.parametrize("layer", GraphNet.layers)
def test_outputs_and_gradients_are_those_of_the_pass_by_hand(inspected, layer, lam):
    model, mixup, call = inspected
    model.zero_grad()
    compare(model, mixup, MixPlan(layer, LAMS[lam], PERM), *call)


@pytest.mark.parametrize(
    "call",
    [
        "tensors",
        pytest.param("names", marks=THOROUGH),
        "with edges",
        pytest.param("with a size", marks=THOROUGH),
        "a dataclass",
        "a dict",
    ],
)
def test_the_layers_after_the_pooling_are_found_and_proven(call):
    kind, args, kwargs, _ = CALLS[call]
    model = build(kind)
    table = find_layers(model, *args, **kwargs)
    assert [row.name for row in table.cuts] == ["pool", "head.0", "head.1", "head.2", "head"]
    assert table.default == ("pool", "head.1")
    assert table.graphs
    assert table.lead.endswith("batch")
    assert f"the examples are the graphs that {table.lead!r} numbers" in str(table)
    report = ManifoldMixup(model, ["conv1", "pool", "head.0"], check=False).verify(*args, **kwargs)
    assert [proof.verdict for proof in report.layers] == ["failed", "proven", "proven"]


@pytest.mark.parametrize("kind", ["GraphNet", "Centring", "Jumping", "Atoms"])
def test_structure_and_numbers_agree_on_every_module(kind):
    model = build(globals()[kind])
    args = (torch.arange(len(DATA.x)) * 3 % 7, *GIVEN[1:]) if kind == "Atoms" else GIVEN
    table = find_layers(model, *args)
    names = layers_in(table)
    report = prove_by_hand(model, table, names, args, {})
    assert {proof.verdict for proof in report.layers} == {"proven", "failed"}
    assert not disagreeing(table, report)


def test_nodes_and_edges_are_refused_with_the_way_out():
    table = find_layers(build(), *GIVEN, edge_attr=DATA.edge_attr)
    rows = {row.name: row for row in (*table, *table.inputs)}
    edges = len(DATA.edge_attr)
    for name, shape in {
        "conv1": (21, 6),
        "norm": (21, 6),
        "conv2": (21, 6),
        "conv1.edge": (edges, 6),
        "x": (21, 4),
        "edge_attr": (edges, 4),
    }.items():
        assert f"has shape {shape}, not a row for each of the 5 graphs" in rows[name].reason
        assert "Mix the output of the module that pools" in rows[name].reason
    assert "Nearest cut points: 'pool'" in refused(table, "conv2")
    assert "not a row for each of the 5 graphs" in refused(table, "input:x")


def test_a_table_without_a_choice_says_nothing_of_how_it_was_made():
    class Functional(GraphNet):
        def forward(self, x, edge_index, batch):
            h = self.nodes(x, edge_index)
            return self.head(h.new_zeros(int(batch.max()) + 1, h.shape[1]).index_add(0, batch, h))

    model = Functional().to(DATA.x)
    model.head = nn.Linear(model.head[0].in_features, 2).to(DATA.x)
    assert "*: the automatic choice, +: can" in str(find_layers(model, *GIVEN))


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_training_on_batches_of_any_number_of_graphs(per_sample):
    model, seen = build(), []
    mixup = ManifoldMixup(model, GraphNet.layers, per_sample=per_sample, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for step, count in enumerate([4, 7, 4, 1, 3, 9]):
        data = batch_of([3 + (step + index) % 4 for index in range(count)], seed=step)
        y = torch.arange(count) % 3
        oracle = copy.deepcopy(model)
        loss = criterion(model(data.x, data.edge_index, data.batch), y)
        plan = mixup.plan
        expected = oracle.by_hand(plan, data)
        each = [F.cross_entropy(expected, t, reduction="none") for t in (y, y[plan.perm])]
        wanted = (plan.lam * each[0] + (1 - plan.lam) * each[1]).mean()
        torch.testing.assert_close(loss, wanted, atol=1e-6, rtol=1e-6)
        assert plan.batch == count
        loss.backward()
        seen.append(plan.layer)
    assert len(set(seen)) > 1


def test_a_share_of_the_batches_and_a_resumed_run():
    outputs = []
    for stop in (6, 3):
        model = build()
        mixup = ManifoldMixup(model, GraphNet.layers, p=0.5, seed=1)
        for step in range(6):
            if step == stop:
                state = mixup.state_dict()
                mixup = ManifoldMixup(model, GraphNet.layers, p=0.5, seed=5, replace=True)
                mixup.load_state_dict(state)
            outputs.append((mixup.target(None, model(*GIVEN)), mixup.plan)[1])
    plans = [plan and (plan.layer, float(plan.lam), plan.perm.tolist()) for plan in outputs]
    assert plans[:6] == plans[6:]
    assert None in plans
    assert any(plans)


def test_targets_are_required_and_evaluation_is_untouched():
    model = build()
    mixup = ManifoldMixup(model, ["pool"], example=GIVEN)
    with pytest.raises(RuntimeError, match="its targets were not mixed"):
        F.cross_entropy(model(*GIVEN), Y).backward()
    with mixup.paused():
        torch.testing.assert_close(model(*GIVEN), build()(*GIVEN))
    model.eval()
    same = build()
    same.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(*GIVEN), same.eval()(*GIVEN))
    other = MixPlan("pool", torch.tensor(0.5), torch.tensor([1, 2, 0]))
    fault = "pairs 3 examples, but the model was called with 5"
    with mixup.using(other), pytest.raises(ValueError, match=fault):
        model(*GIVEN)


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled():
    model = build()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, ["pool"], example=GIVEN)
    given = GIVEN, {"batch_size": len(SIZES)}, None
    compare(model, mixup, MixPlan("pool", LAMS["one λ"], PERM), *given, run=compiled)


def test_a_call_without_the_numbers_is_refused():
    class Optional(GraphNet):
        def forward(self, x, edge_index, batch=None):
            batch = torch.zeros(len(x), dtype=torch.long) if batch is None else batch
            return super().forward(x, edge_index, batch)

    model = build(Optional)
    ManifoldMixup(model, ["pool"], example=GIVEN)
    with pytest.raises(ValueError, match="no 'batch', which held the graph of each node"):
        model(*GIVEN[:2])


# Of PyTorch Geometric

# Importing it scripts a class, which newer PyTorch releases warn about.
SCRIPTING = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


@pytest.fixture
def geometric():
    pytest.importorskip("torch_geometric")


def net_of(body, pool, as_object, norm="batch_norm"):
    from torch_geometric.nn import aggr, models

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            given = {"num_layers": 2, "norm": norm, "act": "tanh"}
            self.body = getattr(models, body)(4, WIDTH, **given)
            self.pool = getattr(aggr, pool)()
            self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 3))

        def forward(self, x, edge_index=None, batch=None):
            if as_object:
                x, edge_index, batch = x.x, x.edge_index, x.batch
            return self.head(self.pool(self.body(x, edge_index, batch=batch), batch))

    return build(Net)


def object_of():
    from torch_geometric.data import Batch, Data

    each = []
    for graph in range(len(SIZES)):
        nodes = (DATA.batch == graph).nonzero()[:, 0]
        own = DATA.edge_index[:, DATA.batch[DATA.edge_index[0]] == graph] - nodes[0]
        each.append(Data(x=DATA.x[nodes], edge_index=own, y=Y[graph]))
    return Batch.from_data_list(each)


POOLS = {
    "MeanAggregation": lambda h: h.mean(0),
    "SumAggregation": lambda h: h.sum(0),
    "MaxAggregation": lambda h: h.amax(0),
}


@SCRIPTING
@pytest.mark.usefixtures("geometric")
@pytest.mark.parametrize(
    ("body", "pool", "as_object"),
    [
        pytest.param("GCN", "MeanAggregation", False, marks=THOROUGH),
        pytest.param("GCN", "MeanAggregation", True, marks=THOROUGH),
        pytest.param("GIN", "SumAggregation", False, marks=THOROUGH),
        ("GIN", "SumAggregation", True),
        ("GraphSAGE", "MaxAggregation", False),
        pytest.param("GraphSAGE", "MaxAggregation", True, marks=THOROUGH),
    ],
)
def test_networks_of_the_library(body, pool, as_object):
    model, oracle = (net_of(body, pool, as_object) for _ in range(2))
    args = (object_of(),) if as_object else GIVEN
    table = find_layers(model, *args)
    assert table.default == ("pool", "head.1")
    assert [row.name for row in table.cuts] == ["pool", "head.0", "head.1", "head.2", "head"]
    mixup = ManifoldMixup(model, example=args, seed=3)
    assert mixup.verify(*args).ok
    for _ in range(4):
        loss = mixup.wrap(nn.CrossEntropyLoss())(model(*args), Y)
        plan = mixup.plan
        nodes = oracle.body(*GIVEN[:2], batch=DATA.batch)
        h = torch.stack([POOLS[pool](nodes[DATA.batch == graph]) for graph in range(len(SIZES))])
        h = mixed(h, plan) if plan.layer == "pool" else h
        h = oracle.head[1](oracle.head[0](h))
        output = oracle.head[2](mixed(h, plan) if plan.layer == "head.1" else h)
        own, other = (F.cross_entropy(output, y) for y in (Y, Y[plan.perm]))
        torch.testing.assert_close(loss, plan.lam * own + (1 - plan.lam) * other)


@SCRIPTING
@pytest.mark.usefixtures("geometric")
def test_a_norm_in_each_convolution_does_not_know_the_graphs():
    """GIN gives `GraphNorm` the graphs between its convolutions, but not inside them."""
    for body, meets in {"GIN": True, "GCN": False}.items():
        table = find_layers(net_of(body, "SumAggregation", False, "graph_norm"), *GIVEN)
        assert (not table.cuts) == meets
        assert ("change the outputs of other graphs" in table[0].reason) == meets


@SCRIPTING
@pytest.mark.usefixtures("geometric")
def test_an_object_is_left_as_it_was():
    model, data = net_of("GCN", "MeanAggregation", True), object_of()
    before = {name: (value, value.clone()) for name, value in data}
    mixup = ManifoldMixup(model, ["pool"], example=data)
    mixup.target(None, model(data))
    assert {name for name, _ in data} == before.keys()
    for name, value in data:
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])


# What is refused


def test_without_any_look_at_the_model_rows_are_taken_for_examples():
    model = build()
    ManifoldMixup(model, ["pool"], check=False)
    with pytest.raises(ValueError, match=r"should mix 21 examples.*attach without check"):
        model(*GIVEN)


class Attending(GraphNet):
    """Graphs attend to one another."""

    def forward(self, x, edge_index, batch):
        h = self.pool(self.nodes(x, edge_index), batch)
        return self.head((h @ h.T).softmax(1) @ h)


class Centred(GraphNet):
    """Subtracts the mean over all nodes of the batch."""

    def forward(self, x, edge_index, batch):
        h = self.nodes(x, edge_index)
        return self.head(self.pool((h - h.mean(0)).tanh(), batch))


class Centring(GraphNet):
    """Subtracts the mean over the nodes of each graph."""

    def forward(self, x, edge_index, batch):
        h = self.nodes(x, edge_index)
        return self.head(self.pool((h - self.pool(h, batch)[batch]).square(), batch))


class Backwards(GraphNet):
    """Returns the last graph first."""

    def forward(self, x, edge_index, batch):
        return self.head(self.pool(self.nodes(x, edge_index), batch)).flip(0)


class Classes(GraphNet):
    """Has a row for each class, which are as many as the graphs; the vector is not read."""

    def forward(self, x, edge_index, batch):
        return self.nodes(x, edge_index)[:5]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(
            Attending, "nodes of graph 0 change the outputs of other graphs", marks=THOROUGH
        ),
        (Centred, "nodes of graph 0 change the outputs of other graphs. A norm over all nodes"),
        (Backwards, "nodes of graph 0 do not change its row of the outputs"),
        (Classes, "change the outputs of other graphs"),
    ],
)
def test_outputs_whose_rows_are_not_the_graphs_are_refused(kind, said):
    rows = rows_of(build(kind), *GIVEN)
    assert not any(row.cut for row in rows.values())
    assert said in rows["conv1"].reason
    model = build(kind)
    ManifoldMixup(model, ["head" if kind is not Classes else "conv2"])
    with pytest.raises(ValueError, match=said):
        model(*GIVEN)


def test_a_norm_over_the_nodes_of_each_graph_is_no_such_thing():
    model = build(Centring)
    assert "head.0" in [row.name for row in find_layers(model, *GIVEN).cuts]
    ManifoldMixup(model, ["head.0"], example=GIVEN)


class Jumping(GraphNet):
    """What is pooled after the first convolution joins what is pooled after the second."""

    def forward(self, x, edge_index, batch):
        first = self.conv1(x, edge_index)
        h = self.pool(self.conv2(first, edge_index), batch)
        return self.head(h + Mean()(first, batch))


def test_a_pooling_that_nodes_bypass_is_refused():
    rows = rows_of(build(Jumping), *GIVEN)
    assert "residual path" in rows["pool"].reason
    assert rows["head.0"].cut
    report = ManifoldMixup(build(Jumping), ["pool", "head.0"], check=False).verify(*GIVEN)
    assert [proof.verdict for proof in report.layers] == ["failed", "proven"]


class Reversed(GraphNet):
    """The head sees the last graph first, by a product that does not say so."""

    def forward(self, x, edge_index, batch):
        h = self.pool(self.nodes(x, edge_index), batch)
        order = torch.eye(len(h), dtype=h.dtype).flip(0)
        return self.head[2](order @ self.head[1](self.head[0](order @ h)))


def test_structure_alone_is_never_accepted():
    rows = rows_of(build(Reversed), *GIVEN)
    assert rows["pool"].cut
    assert rows["head.0"].cut
    ManifoldMixup(build(Reversed), ["pool"], example=GIVEN)
    said = "the examples are graphs, so their structure alone"
    with pytest.raises(ValueError, match=said):
        ManifoldMixup(build(Reversed), ["pool", "head.0"], example=GIVEN)
    model = build(Reversed)
    ManifoldMixup(model, ["pool", "head.0"])
    with pytest.raises(ValueError, match=said):
        model(*GIVEN)


class ByFunction(GraphNet):
    """No module returns what was pooled, and one layer is left."""

    def __init__(self):
        super().__init__(pool=nn.Identity())
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x, edge_index, batch):
        h = self.nodes(x, edge_index)
        return self.head(h.new_zeros(len(SIZES), WIDTH).index_add(0, batch, h))


def test_without_a_module_that_pools_no_layer_is_chosen_and_the_way_out_works():
    model = build(ByFunction)
    table = find_layers(model, *GIVEN)
    assert [row.name for row in table.cuts] == ["head"]
    with pytest.raises(
        ValueError, match=r"Let a module pool.*ManifoldMixup\(model.head, \['input'\]\)"
    ):
        table.default  # noqa: B018
    mixup = ManifoldMixup(model.head, ["input"])
    output = model(*GIVEN)
    mixup.target(None, output)
    oracle = build(ByFunction)
    pooled = []
    oracle.head.register_forward_pre_hook(lambda _, given: pooled.append(given[0]))
    oracle(*GIVEN)
    torch.testing.assert_close(output, oracle.head(mixed(pooled[0], mixup.plan)))


class Described(GraphNet):
    """A vector of each graph joins what was pooled, in a module or in the model's own code."""

    def __init__(self, module):
        super().__init__()
        self.join = nn.Bilinear(WIDTH, WIDTH, WIDTH) if module else None

    def forward(self, x, edge_index, batch, u):
        h = self.pool(self.nodes(x, edge_index), batch)
        return self.head(h * u if self.join is None else self.join(h, u))


def test_a_vector_of_each_graph_is_mixed_where_a_module_receives_it():
    u = torch.randn(len(SIZES), WIDTH, dtype=torch.float64)
    assert (
        "the input 'u' is still read after it"
        in rows_of(build(Described, module=False), *GIVEN, u)["pool"].reason
    )
    model = build(Described, module=True)
    mixup = ManifoldMixup(model, ["pool"], example=(*GIVEN, u))
    plan = MixPlan("pool", LAMS["λ per example"], PERM)
    with mixup.using(plan):
        output = model(*GIVEN, u)
    same = build(Described, module=True)
    h = same.pool(same.nodes(*GIVEN[:2]), DATA.batch)
    expected = same.head(same.join(mixed(h, plan), mixed(u, plan)))
    torch.testing.assert_close(output, expected)


class WithNodes(GraphNet):
    """Also returns the states of the nodes."""

    def forward(self, x, edge_index, batch):
        h = self.nodes(x, edge_index)
        return self.head(self.pool(h, batch)), h


def test_an_output_of_nodes_must_be_left_to_no_loss():
    model = build(WithNodes)
    both = find_layers(model, *GIVEN)
    assert not both.cuts
    assert "the output '1' of shape (21, 6) has no row for each graph" in both[0].reason
    table = find_layers(model, *GIVEN, outputs="0")
    assert "pool" in [row.name for row in table.cuts]
    ManifoldMixup(model, ["pool"], example=GIVEN, outputs="0")
    report = ManifoldMixup(model, ["pool"], check=False, outputs="0", replace=True).verify(*GIVEN)
    assert report.ok


class Atoms(nn.Module):
    """Nodes are kinds of atoms, without a floating point feature."""

    def __init__(self):
        super().__init__()
        self.kinds, self.conv, self.pool = nn.Embedding(7, 4), Conv(4), Mean()
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, z, edge_index, batch):
        return self.head(self.pool(self.conv(self.kinds(z), edge_index), batch))


def test_integer_features():
    z = torch.arange(len(DATA.x)) * 3 % 7
    model = build(Atoms)
    assert [row.name for row in find_layers(model, z, *GIVEN[1:]).cuts] == ["pool", "head"]
    ManifoldMixup(model, ["pool"], example=(z, *GIVEN[1:]))


def test_two_graphs_cannot_show_the_order_of_rows():
    data = batch_of([3, 4])
    reason = rows_of(build(), data.x, data.edge_index, data.batch)["pool"].reason
    assert "pass a batch of 3 graphs or more" in reason
    assert not find_layers(build(), data.x, data.edge_index, data.batch).cuts


class Nodes(nn.Module):
    """Classifies nodes."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = Conv(4), Conv(WIDTH)

    def forward(self, x, edge_index, batch=None):
        return self.conv2(self.conv1(x, edge_index), edge_index)


@pytest.mark.parametrize("given", [GIVEN[:2], GIVEN], ids=["one graph", "with a vector"])
def test_nodes_exchange_messages(given):
    table = find_layers(build(Nodes), *given)
    assert not table.cuts
    assert not table.graphs
    assert "If the rows are nodes of a graph, they exchange messages" in table[0].reason


# The vector

X = torch.zeros(5, 2)


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ([0, 0, 1, 1, 2], True),
        ([0, 0, 0, 0, 2], True),  # the second graph has no node
        ([0, 1, 0, 1, 2], False),  # not sorted
        ([1, 1, 2, 2, 3], False),  # not from 0
        ([0, 0, 0, 0, 0], False),  # one graph
        ([0, 1, 2, 3, 4], False),  # as many graphs as nodes
        ([0, 2, 3, 4, 5], False),  # more
        ([0.0, 0.0, 1.0, 1.0, 2.0], False),
        ([False, False, False, True, True], False),
        ([0, 0, 1, 1], False),  # of another length
        ([], False),
        (torch.zeros(5, dtype=torch.long, device="meta"), False),
    ],
)
def test_which_input_may_be_the_vector(numbers, found):
    assert (numberings([("x", X), ("b", torch.as_tensor(numbers))]) == ["b"]) == found


def test_how_many_graphs_there_are():
    assert graphs_in(torch.tensor([0, 0, 1, 3])) == 4
    assert graphs_in(torch.tensor([], dtype=torch.long)) == 0
