"""find_layers: the table, its inputs, the choice, and models that are hard to look at."""

import copy
import random
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from graphs import Net, cuts_of, refused, rows_of
from manifold_mixup import ManifoldMixup, find_layers
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._dry_run.neutral import Neutral
from manifold_mixup._find import check_layers
from manifold_mixup._structure.choice import choose
from manifold_mixup._structure.row import Carry, LayerRow
from manifold_mixup._structure.rows import RowBuilder
from manifold_mixup._structure.trace import trace

x = torch.zeros(3, 4)


def test_the_table_is_shown_in_a_line_and_printed_in_full():
    table = find_layers(nn.Sequential(*(nn.Linear(4, 4) for _ in range(6))), x)
    assert repr(table) == "<6 of 6 layers of Sequential can be mixed: '0', '1', '2', '3', ...>"
    assert len(str(table).splitlines()) == 9


# Nothing changes


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_and_no_generator_changes(training):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2))
    model.train(training)
    before = copy.deepcopy(model.state_dict())
    parameters = list(model.parameters())
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    expected = random.random(), np.random.rand(), torch.rand(())  # noqa: NPY002
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    batch = torch.ones(3, 4)
    find_layers(model, batch)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected  # noqa: NPY002
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(not module._forward_hooks for module in model.modules())
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in parameters)
    assert torch.equal(batch, torch.ones(3, 4))


def test_the_model_is_seen_as_it_trains():
    model = Net(lambda m, x: m.c(m.b(m.a(x))) + (m.a.weight.sum() * x if m.training else 0))
    assert cuts_of(model.eval(), x) == set()


def test_a_frozen_part_stays_frozen():
    model = Net(lambda m, x: m.c(m.a(x)) + (x if m.b.training else 0))
    assert cuts_of(model, x) == set()
    model.b.eval()
    assert cuts_of(model, x) == {"a", "c"}


# Inputs


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, batch: dict[str, Tensor], scale: Tensor) -> Tensor:
        return self.fc(batch["x"]) * scale


def test_inputs_are_listed_by_name():
    model = Named()
    table = find_layers(model, {"x": x}, scale=torch.tensor(2.0))
    seen = [(item.name, item.shape, item.batch, item.kind) for item in table.inputs]
    assert seen == [("batch.x", (3, 4), 0, "data"), ("scale", (), None, "constant")]
    assert check_layers(table, ["fc", "input:batch.x"]) == ("input:batch.x", "fc")
    assert "this forward pass has no 'input:y'" in refused(table, "input:y")


def test_one_of_two_inputs_is_mixed_with_the_other_if_a_module_receives_that():
    table = find_layers(Net(lambda m, x, y: m.c(m.a(x) + m.b(y))), x=x, y=x)
    assert "Use 'input:x' or 'input:y'" in refused(table, "input")
    assert check_layers(table, ["input:x"]) == ("input:x",)
    assert [str(carry) for carry in table.inputs[0].carries] == ["'y' in 'b'"]


def test_one_of_two_inputs_cannot_be_mixed_alone():
    table = find_layers(Net(lambda m, x, y: m.c(m.a(x) + y)), x=x, y=x)
    message = refused(table, "input:x")
    assert "the input 'y' is still read after it" in message
    assert "Nearest cut points: 'c'" in message


# The automatic choice


def row(name: str, depth: float, *, cut: bool = True) -> LayerRow:
    return LayerRow(name, (2, 4), depth, cut, (), "" if cut else "why", 1, ("",), "", False)


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([("a", 0.2), ("b", 0.5), ("c", 0.6)], ("a", "b")),
        ([("a.0", 0.25), ("a.1", 0.5), ("a", 0.2), ("b", 0.65)], ("a", "b")),
        ([("a.0", 0.25), ("a.1", 0.5), ("a", 0.5), ("b", 0.9)], ("a.0", "a.1")),
        ([("conv", 0.25), ("relu", 0.25), ("b", 0.5), ("pool", 0.5)], ("relu", "pool")),
        ([("a", 0.50), ("b", 0.54)], ("a",)),
        ([("a", 0.2), ("b.0", 0.45), ("b.1", 0.8), ("b", 0.9)], ("a", "b.0")),
        ([("a.0.0", 0.2), ("a.0", 0.2), ("b", 0.45)], ("a.0", "b")),
        ([("a", 0.01), ("b", 0.4), ("c", 0.9)], ("b",)),
        ([("a", 0.74), ("b", 0.99)], ("a",)),
        ([("a", 0.01), ("b", 0.99)], ()),
        ([], ()),
    ],
)
def test_the_choice(rows, chosen):
    assert choose([row(*each) for each in rows]).layers == chosen


def test_the_choice_takes_cut_points_only():
    rows = [row("a", 0.25), row("b", 0.5), row("c", 0.45)]
    assert choose([rows[0], replace(rows[1], cut=False), rows[2]]).layers == ("a", "c")


def test_blocks_are_chosen_before_norms_and_dropouts_of_the_same_depth():
    rows = [row("a.0", 0.2), row("a", 0.2), row("norm", 0.2), row("b", 0.5), row("pool", 0.5)]
    rows[-1] = replace(rows[-1], shape=(2, 2))
    assert choose(rows).layers == ("a", "pool")


def test_a_block_is_chosen_before_what_ends_with_it_and_carries_something():
    rows = [row("a.shortcut", 0.2), row("a", 0.5), row("b.shortcut", 0.5), row("b", 0.9)]
    with_block = (Carry("b.conv", "0.0", "a"),)
    rows = [replace(each, carries=with_block * each.name.endswith("cut")) for each in rows]
    assert choose(rows).layers == ("a.shortcut", "a")


def eeg_net(kernel):
    """A network whose first convolution does nearly all of the work."""
    return nn.Sequential(
        *(nn.Conv1d(2, 8, kernel), nn.AvgPool1d(300)),
        *(nn.Conv1d(8, 16, 3, padding=1), nn.Dropout()),
        *(nn.Conv1d(16, 16, 3, padding=1), nn.Flatten(), nn.Linear(96, 4)),
    )


def test_where_one_layer_does_nearly_all_of_the_work_the_parameters_decide():
    table = find_layers(eeg_net(65), torch.randn(3, 2, 2000))
    sizes = torch.tensor([2 * 8 * 65 + 8, 0, 8 * 16 * 3 + 16, 0, 16 * 16 * 3 + 16, 0, 96 * 4 + 4])
    shares = sizes.cumsum(0) / sizes.sum()
    assert [row.parameters for row in table] == pytest.approx(shares.tolist())
    assert min(row.depth for row in table) > 0.99
    assert table.measure == "parameters"
    assert table.default == ("input", "1", "3")
    assert "by its share of the parameters, 0.40, 0.55" in str(table)


def test_where_it_has_nearly_all_parameters_too_the_order_decides():
    table = find_layers(eeg_net(1025), torch.randn(3, 2, 2960))
    assert min(row.parameters for row in table) > 0.9
    assert table.measure == "order"
    assert len(table.default) == 3
    shares = {row.name: row.order for row in table}
    assert all(0.05 <= shares[name] <= 0.7 for name in table.default[1:])
    assert "by its share of the operators" in str(table)


def shares(name: str, flops: float, parameters: float, order: float) -> LayerRow:
    return replace(row(name, flops), parameters=parameters, order=order)


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        # two by the order, rather than one by the parameters (braindecode's EEGNeX)
        ([("a", 0.97, 0.3, 0.27), ("b", 0.98, 0.33, 0.54), ("c", 1.0, 0.9, 0.65)], ("a", "b")),
        # only an activation is between them (DGCNN)
        ([("conv", 0.9, 0.26, 0.6), ("relu", 0.9, 0.26, 0.69), ("c", 1.0, 0.99, 0.77)], ("relu",)),
        # a norm, which has parameters, is between them (ShallowFBCSPNet)
        ([("conv", 0.99, 0.9, 0.4), ("norm", 0.99, 0.91, 0.55)], ("conv", "norm")),
        # a bank of filters that counts no FLOPs (FBCNet), unless others do (FBMSNet)
        ([("bank", 0.0, 0.14, 0.8), ("conv", 0.99, 0.66, 0.9)], ("bank", "conv")),
        ([("bank", 0.0, 0.1, 0.8), ("a", 0.8, 0.2, 0.9), ("b", 0.9, 0.4, 0.9)], ("a", "b")),
        # an embedding before a layer that does nearly all of the work (a language model)
        ([("embed", 0.0, 0.13, 0.04), ("rnn", 0.84, 0.86, 0.92)], ("embed",)),
    ],
)
def test_two_by_any_measure_are_better_than_one(rows, chosen):
    assert choose([shares(*each) for each in rows]).layers == chosen


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight, model[2].bias = model[0].weight, model[0].bias
    assert [row.parameters for row in find_layers(model, x)] == [0.5, 1.0, 1.0]


def test_without_any_layer_an_error_says_what_there_is():
    table = find_layers(Net(lambda m, x: m.a(x) * x), x)
    with pytest.raises(ValueError, match=r'Mix the input: layers=\["input"\]') as caught:
        _ = table.default
    assert "no hidden layer of Net" in str(caught.value)


def test_depth_counts_operators_where_there_are_no_flops():
    table = find_layers(nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid()), x)
    assert [round(row.depth, 2) for row in table] == [0.33, 0.67, 1.0]


def test_the_table_prints():
    text = str(find_layers(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64)))
    chosen = [line.split()[1] for line in text.splitlines()[:-1] if line.startswith("*")]
    assert chosen == ["input:x", "layer1", "layer2"]
    assert "layer1.0.bn1" in text


# Checking named layers


def test_names_come_back_in_order_of_execution():
    table = find_layers(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))
    names = ["layer2", "layer1", "input", "layer2"]
    assert check_layers(table, names) == ("input", "layer1", "layer2")


def test_a_bypassed_layer_is_refused_with_its_neighbours():
    table = find_layers(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))
    assert refused(table, "layer2.1.conv1") == (
        "layer 'layer2.1.conv1' is bypassed: the residual path around it carries the unmixed "
        "state: the code of 'layer2.1' after 'layer2.1.bn2' and before 'layer2.1.relu' reads "
        "'layer2.0' of shape (2, 128, 8, 8); it would be mixed too if a module received it as an "
        "argument. Nearest cut points: 'layer2.0', 'layer2'."
    )


def test_cut_points_that_carry_nothing_are_named_before_others():
    table = find_layers(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))
    assert "Nearest cut points: 'layer1', 'layer2.0'." in refused(table, "layer2.0.downsample.0")


def test_a_layer_that_never_ran_is_refused():
    model = Net(lambda m, x: m.c(m.list[0](x)), list=nn.ModuleList([nn.Linear(4, 4)]))
    table = find_layers(model, x)
    assert set(table.idle) == {"a", "b", "list"}
    assert "'list' did not run" in refused(table, "list")
    assert "ModuleList" in refused(table, "list")


# Models that are hard to inspect


def _by_value(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(m.b(h) if h.sum().item() < float("inf") else h)


def test_a_model_that_reads_values_is_seen_on_a_copy():
    table = find_layers(Net(_by_value), torch.ones(5, 4))
    assert not table.fake
    assert [row.name for row in table.cuts] == ["a", "b", "c"]


def test_lengths_are_a_side_input_of_packed_sequences():
    def forward(m, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(
            m.a(x), lengths, batch_first=True, enforce_sorted=False
        )
        return m.c(m.l(packed)[1][0][-1])

    table = find_layers(
        Net(forward, l=nn.LSTM(4, 4, batch_first=True)),
        torch.zeros(3, 5, 4),
        torch.tensor([5, 2, 3]),
    )
    rows = {row.name: row for row in table}
    assert rows["a"].side == ("lengths",) or rows["a"].side == ("args.1",)
    assert dict(rows["l"].batch_dims) == {"1.0": BatchDim(1)}  # h_n
    assert rows["l"].cut
    assert rows["c"].cut


def test_what_cannot_be_copied_can_be_looked_at():
    model = nn.Sequential(nn.Linear(4, 4))
    model.lock = threading.Lock()
    assert cuts_of(model, x) == {"0"}


def test_a_tuple_that_has_no_length_can_be_kept_by_a_model():
    class Irreps(tuple):
        def __len__(self) -> int:
            raise RuntimeError("irreducible representations have a dimension, but no length")

    model = nn.Sequential(nn.Linear(4, 4))
    model.irreps = Irreps((1, [2]))
    assert cuts_of(model, x) == {"0"}


def test_a_parameter_may_refuse_functions_of_torch():
    class Manifold(nn.Parameter):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is Tensor.untyped_storage:
                raise TypeError("a point of a manifold has no memory")
            return super().__torch_function__(function, types, args, kwargs or {})

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].weight = Manifold(torch.randn(4, 4))
    assert cuts_of(model, x) == {"0", "1"}
    assert ManifoldMixup(model, "0").verify(torch.randn(3, 4)).layers[0].verdict != "failed"


def test_a_forward_that_was_replaced_is_followed():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    first, second = model
    model.forward = lambda x: x + second(first(x))
    assert cuts_of(model, x) == set()
    assert [row.name for row in find_layers(model, x)] == ["0", "1"]


def test_a_forward_that_runs_no_module_is_said():
    model = nn.Sequential(nn.Linear(4, 4))
    model.forward = lambda x: 2 * x
    with pytest.raises(RuntimeError, match="runs none of its modules"):
        find_layers(model, x)


def test_an_error_of_the_model_is_passed_on():
    with pytest.raises(RuntimeError, match=r"does not run .*shapes cannot be multiplied"):
        find_layers(nn.Linear(4, 4), torch.zeros(2, 5))


def test_no_tensor_at_all():
    with pytest.raises(ValueError, match="without a tensor"):
        find_layers(nn.Linear(4, 4), 3)


def test_compiled_models_are_seen_eagerly_and_named_plainly():
    net = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4))
    expected = ["0", "1.0", "1", "2"]
    assert [row.name for row in find_layers(torch.compile(net, backend="eager"), x)] == expected
    net[1] = torch.compile(net[1], backend="eager")
    assert [row.name for row in find_layers(net, x)] == expected
    net.compile(backend="eager")
    assert [row.name for row in find_layers(net, x)] == expected


def test_weights_that_are_results_can_be_copied():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    rows = rows_of(model, x)
    assert rows["0"].cut
    assert "does not depend on the batch" in rows["0.parametrizations.weight"].reason
    model[0].extra = model[1].weight * 2  # deepcopy does not support this
    assert cuts_of(model, x) == {"0", "1"}


def calls_per_layer(layers):
    """Return the number of calls per layer that it takes to inspect a chain of layers."""
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))
    view = RowBuilder(trace(model, (x,), {}, Neutral()))
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        assert all(view.row(run).cut for run in view.first.runs)
    finally:
        sys.setprofile(None)
    return calls / layers


def test_a_layer_among_many_takes_no_more_calls_to_judge():
    assert calls_per_layer(200) < 1.2 * calls_per_layer(20)
