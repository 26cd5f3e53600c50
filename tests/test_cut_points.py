"""Where a model can be mixed, by its graph: which paths count, what stands in the way, and why."""

from dataclasses import dataclass

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from architectures import PreActResNet, Recurrent, UNet, bert, padding, token_ids
from graphs import Net, cuts_of, refused, rows_of
from manifold_mixup import ManifoldMixup, MixPlan, find_layers
from manifold_mixup._batch_dim import BatchDim
from manifold_mixup._structure.row import End

x = torch.zeros(3, 4)


# Residual networks


def test_resnet_is_cut_between_blocks_and_inside_where_a_module_receives_the_shortcut():
    table = find_layers(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))
    alone = {row.name for row in table.cuts if not row.carries and row.run is None}
    blocks = {f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)}
    stages = {f"layer{stage}" for stage in range(1, 5)}
    assert alone == blocks | stages | {"conv1", "bn1", "relu", "maxpool", "avgpool", "fc"}
    # A block ends with the second run of its ReLU.
    runs = {row.name for row in table.cuts if row.run is not None and not row.carries}
    assert runs == {f"{block}.relu@1" for block in blocks}
    carried = {row.name: [str(carry) for carry in row.carries] for row in table if row.carries}
    assert carried == {
        f"layer{stage}.0.{name}": [f"'layer{stage - 1}' in 'layer{stage}.0.downsample'"]
        for stage in (2, 3, 4)
        for name in ("conv1", "bn1", "relu@0", "conv2", "bn2")
    }


def test_rows_say_name_shape_depth_and_reason():
    table = find_layers(torchvision.models.resnet18(), torch.zeros(2, 3, 64, 64))
    rows = {row.name: row for row in table}
    assert rows["layer1"].shape == (2, 64, 16, 16)
    assert (rows["layer1"].runs, rows["layer1"].mixed, rows["layer1"].reason) == (1, ("",), "")
    assert rows["layer1.0.relu"].runs == 2
    assert rows["layer1.0.relu"].reason == (
        "it ran 2 times in one forward pass. Name 'layer1.0.relu@1'"
    )
    assert "residual path" in rows["layer1.0.relu@0"].reason
    assert "residual path" in rows["layer1.0.bn1"].reason
    depths = [row.depth for row in table]
    assert depths == sorted(depths)
    assert depths[-1] == 1
    names = [row.name for row in table]
    assert names.index("layer1.1") < names.index("layer1") < names.index("layer2.0.conv1")


@pytest.mark.parametrize("blocks", [(2, 2, 2, 2), (3, 4, 6, 3), (3, 8, 36, 3)])
def test_preactresnets_get_the_layers_of_the_paper(blocks):
    table = find_layers(PreActResNet(blocks), torch.zeros(2, 3, 32, 32))
    assert table.default == ("input", "layer1", "layer2")


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_resnets_get_the_layers_of_the_paper(depth, size):
    model = torchvision.models.get_model(f"resnet{depth}", weights=None)
    assert find_layers(model, torch.zeros(2, 3, size, size)).default == (
        "input",
        "layer1",
        "layer2",
    )


# Paths around a layer


def test_a_second_floating_input_read_late_leaves_no_cut_before_it():
    model = Net(lambda m, x, t: m.c(m.b(m.a(x)) + t))
    table = find_layers(model, x, t=x)
    rows = {row.name: row for row in table}
    assert [row.name for row in table.cuts] == ["c"]
    assert rows["b"].reason == (
        "the input 't' is still read after it: the code of the model after 'b' and before 'c' "
        "reads 't' of shape (3, 4); it would be mixed too if a module received it as an argument"
    )
    assert "'t' is still read" in refused(table, "b")


def test_unet_is_cut_before_its_skip_and_after():
    found = cuts_of(UNet(), torch.zeros(2, 3, 8, 8))
    assert found == {"stem", "stem.0", "stem.1", "stem.2", "out"}


def test_auxiliary_outputs_count():
    model = Net(lambda m, x: (m.c(m.b(m.a(x))), m.a(x).sum(1)), aux=nn.Linear(4, 2))
    model.function = lambda m, x: (lambda h: {"out": m.c(m.b(h)), "aux": m.aux(h)})(m.a(x))
    table = find_layers(model, x)
    rows = {row.name: row for row in table}
    assert [row.name for row in table.cuts] == ["a", "b", "c"]
    for name in "bc":  # the auxiliary head runs after them
        assert [str(carry) for carry in rows[name].carries] == ["'a' in 'aux'"]
    assert "side branch" in rows["aux"].reason
    model.function = lambda m, x: (lambda h: {"out": m.c(m.b(h)), "aux": h.sum(1)})(m.a(x))
    table = find_layers(model, x)
    assert [row.name for row in table.cuts] == ["a"]
    assert "auxiliary output 'aux'" in {row.name: row for row in table}["b"].reason


@pytest.mark.parametrize(
    ("returned", "named"),
    [
        (lambda h, scale: ((h, 2 * h), scale), "0"),  # the parameters of a distribution
        (lambda h, scale: ({"mean": h, "scale": scale}, scale), "0.mean"),
        (lambda h, scale: (h, scale), "0"),
    ],
)
def test_the_message_names_all_of_the_first_output_that_would_be_mixed(returned, named):
    net = Net(lambda m, x: returned(m.c(m.b(m.a(x))), x.abs().mean(1, keepdim=True)))
    reason = {row.name: row for row in find_layers(net, x)}["b"].reason
    assert f"If the loss reads only {named!r}, set outputs={named!r}" in reason
    assert {row.name for row in find_layers(net, x, outputs=named).cuts} == {"a", "b", "c"}


def test_several_inputs_are_named_in_the_plural():
    net = Net(lambda m, *given: m.c(m.b(m.a(given[0])) + given[1] + given[2]))
    reason = {row.name: row for row in find_layers(net, x, x + 1, x - 1)}["a"].reason
    assert "the inputs 'args.1' and 'args.2' are still read after it" in reason


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_googlenet_is_not_cut_after_its_auxiliary_heads():
    table = find_layers(torchvision.models.googlenet(init_weights=False), torch.zeros(2, 3, 64, 64))
    rows = {row.name: row for row in table}
    assert rows["inception4a"].cut
    assert not rows["maxpool4"].cut
    assert "auxiliary output" in rows["maxpool4"].reason


@pytest.mark.parametrize("mean", [lambda h: h.mean(), lambda h: h.mean(0)])
def test_what_has_no_batch_among_the_outputs_is_left_alone(mean):
    model = Net(lambda m, x: (lambda h: (m.c(m.b(h)), mean(h)))(m.a(x)))
    assert cuts_of(model, x) == {"a", "b", "c"}


def test_a_state_with_its_batch_elsewhere_among_the_outputs_counts():
    class Stateful(Hidden):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            out, (h, _) = self.lstm(self.first(x))
            return self.fc(out[:, -1]), h

    found = rows_of(Stateful(2, by_state=False), torch.zeros(3, 5, 4))
    assert [name for name, row in found.items() if row.cut] == ["first", "lstm"]
    assert dict(found["lstm"].batch_dims) == {"1.0": BatchDim(1)}


def test_a_list_with_an_item_for_every_example_among_the_outputs_counts():
    model = Net(lambda m, x: (lambda h: {"out": m.c(m.b(h)), "each": list(h)})(m.a(x)))
    assert cuts_of(model, x) == {"a"}


def test_an_output_that_compares_examples_cannot_have_mixed_targets():
    model = Net(lambda m, x: (lambda h: h @ h.T)(m.b(m.a(x))))
    message = refused(find_layers(model, x), "a")
    assert "dimension 1 of the model's output of shape (3, 3) also follows the batch" in message


def test_a_loss_inside_the_model_is_named_by_its_targets():
    def forward(m, x, labels):
        out = m.c(m.a(x))
        return nn.functional.cross_entropy(out, labels), out

    table = find_layers(Net(forward), x, labels=torch.zeros(3, dtype=torch.long))
    assert not table.cuts
    assert "computes a loss from 'labels'" in refused(table, "a")
    assert "wrap the criterion" in refused(table, "a")
    only = Net(lambda m, x: m.a(x).square().mean())
    assert "a loss computed inside it" in refused(find_layers(only, x), "a")


@pytest.mark.parametrize(
    ("forward", "cuts"),
    [
        (lambda m, x: m.c(m.a(x).relu_()), {"a", "c"}),
        (lambda m, x: (lambda h: m.c(m.b(h) + h))(m.a(x)), {"a", "c"}),
        (lambda m, x: m.c(m.b(x) + x), {"c"}),
        (lambda m, x: m.c(m.i(m.a(x))), {"a", "i", "c"}),
        (lambda m, x: (lambda h: m.c(m.i(h) + h))(m.a(x)), {"a", "c"}),
        (
            lambda m, x: (lambda q, k: m.c(q.exp() * k.repeat(1, 1)))(*m.d(x).chunk(2, 1)),
            {"d", "c"},
        ),
        (lambda m, x: m.c(torch.zeros_like(x) + m.a(x)), {"a", "c"}),
        (lambda m, x: m.c(x.new_empty(x.shape).copy_(m.a(x))), {"a", "c"}),
        (lambda m, x: m.c(x.clone().copy_(m.a(x))), {"a", "c"}),
        (lambda m, x: m.c(torch.mul(m.a(x).detach(), 2, out=x.clone())), {"a", "c"}),
        (lambda m, x: m.c(_halves(m.a(x), m.b(x))), {"a", "c"}),  # m.b is given x after m.a
        (lambda m, x: m.c(_halves(m.a(x), x)), {"c"}),
        (lambda m, x: m.c(m.a(x)) * (m.b.weight @ m.b.bias), {"a", "c"}),
        (lambda m, x: m.c(m.n(m.a(x))), {"a", "n", "c"}),
        (lambda m, x: (lambda h: m.c(m.r(h) + h))(m.a(x)), {"a", "c"}),
    ],
)
def test_in_place_operators_views_and_reuse(forward, cuts):
    model = Net(forward, i=nn.Identity(), d=nn.Linear(4, 8), n=nn.BatchNorm1d(4), r=nn.ReLU(True))
    assert cuts_of(model, x) == cuts


def _halves(a: Tensor, b: Tensor) -> Tensor:
    """Write two states into the halves of a buffer."""
    out = a.new_empty(a.shape)
    out[:, :2] = a[:, :2]
    out[:, 2:] = b[:, 2:]
    return out


def test_shared_weights_are_no_path_and_shared_modules_are_refused_without_a_run():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert cuts_of(model, x) == {"0", "1"}
    shared = nn.Linear(4, 4)
    table = find_layers(nn.Sequential(shared, nn.ReLU(), shared), x)
    assert "'0' cannot be mixed: it ran 2 times" in refused(table, "0")


def test_a_batchnorm_that_runs_twice_carries_nothing_from_one_run_to_the_other():
    model = Net(lambda m, x: m.n(m.c(m.b(m.n(m.a(x))))), n=nn.BatchNorm1d(4))
    assert cuts_of(model, x) == {"n@0", "a", "b", "n@1", "c"}


def test_running_statistics_are_no_path_where_an_operator_says_it_writes_them():
    def norm(m: nn.Module, x: Tensor) -> Tensor:
        n = m.n
        return torch.ops.aten._batch_norm_with_update(
            x, n.weight, n.bias, n.running_mean, n.running_var, 0.1, 1e-5
        )[0]

    model = Net(lambda m, x: norm(m, m.c(m.b(norm(m, m.a(x))))), n=nn.BatchNorm1d(4))
    assert cuts_of(model, x) == {"a", "b", "c"}


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(reentrant):
    model = Net(lambda m, x: m.c(checkpoint(m.b, m.a(x), use_reentrant=reentrant)))
    assert cuts_of(model, x) == {"a", "b", "c"}


# Random operators


def _stochastic_depth(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(h + m.b(h) * h.new_empty(len(h), 1).bernoulli_(0.5))


def _layer_drop(m: nn.Module, x: Tensor) -> Tensor:
    return m.c(m.b(m.a(x)) if torch.rand([]) > 0.1 else m.a(x))


def _noise(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.c(h + torch.randn_like(h) + torch.rand_like(h) * torch.normal(torch.zeros(4), 1.0))


@pytest.mark.parametrize(
    ("forward", "cuts"),
    [(_stochastic_depth, {"a", "c"}), (_layer_drop, {"a", "b", "c"}), (_noise, {"a", "c"})],
)
def test_chance_neither_hides_a_path_nor_makes_one(forward, cuts):
    table = find_layers(Net(forward), x)
    assert {row.name for row in table.cuts} == cuts
    # Before 2.11, a random branch needs real numbers, so the model runs with real tensors.
    assert table.fake or (forward is _layer_drop and torch.__version__ < (2, 11))


# The batch dimension


class Hidden(nn.Module):
    """Classifies by the last hidden state, ``(layers, batch, features)``, or by the outputs."""

    def __init__(self, layers: int, by_state: bool) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, num_layers=layers, batch_first=True)
        self.fc = nn.Linear(4, 2)
        self.by_state = by_state

    def forward(self, x: Tensor) -> Tensor:
        out, (h, _) = self.lstm(self.first(x))
        return self.fc(h[-1] if self.by_state else out[:, -1])


@pytest.mark.parametrize("layers", [1, 3])
def test_a_state_with_its_batch_elsewhere_is_mixed_only_if_it_is_used(layers):
    batch = torch.zeros(3, 5, 4)
    row = rows_of(Hidden(layers, by_state=False), batch)["lstm"]
    assert (row.cut, row.mixed, row.batch_dims) == (True, ("0",), ())
    row = rows_of(Hidden(layers, by_state=True), batch)["lstm"]  # h_n may have shape (3, 3, 4)
    assert (row.cut, row.mixed, row.batch_dims) == (True, ("1.0",), (("1.0", BatchDim(1)),))


def test_time_first_is_seen_even_if_time_is_as_long_as_the_batch():
    model = Net(lambda m, x: m.c(m.l(x)[0][-1]), l=nn.LSTM(4, 4))
    table = find_layers(model, torch.zeros(3, 3, 4))
    assert not table.cuts
    assert "batch_first=True" in refused(table, "c")
    model = Net(lambda m, x: m.c(m.l(m.a(x).transpose(0, 1))[0][-1]), l=nn.LSTM(4, 4))
    rows = rows_of(model, torch.zeros(3, 3, 4))
    assert rows["a"].cut
    assert rows["l"].batch_dims == (("0", BatchDim(1)),)


def test_a_batch_folded_with_other_dimensions_is_seen():
    model = Net(lambda m, x: m.c(m.b(x.flatten(0, 1)).unflatten(0, (-1, 5)).mean(1)))
    row = rows_of(model, torch.zeros(3, 5, 4))["b"]
    assert row.batch_dims == (("", BatchDim(0, folded=True)),)
    assert "several rows of each example at dimension 0" in str(
        find_layers(model, torch.zeros(3, 5, 4))
    )


def test_pairs_of_examples_are_no_rows_of_examples():
    def pairs(m, x):
        h = m.a(x)
        return m.c(m.b((h[:, None] - h[None]).flatten(0, 1)).unflatten(0, (len(x), -1)).mean(1))

    row = rows_of(Net(pairs), torch.zeros(3, 4))["b"]
    assert "dimension 0 follows the batch, but not in whole examples" in row.reason


def test_a_state_that_follows_the_batch_twice_is_refused():
    def forward(m, x):
        return m.c(m.b(torch.diag_embed(m.a(x).T)).sum(2).T)  # (features, batch, batch)

    row = rows_of(Net(forward, b=nn.Identity()), torch.zeros(3, 4))["b"]
    assert "2 dimensions follow the batch" in row.reason


def test_a_mask_over_time_may_be_as_long_as_the_batch():
    def forward(m, x, mask):
        return m.c((m.a(x).transpose(1, 2) @ mask.float()).mean(2))

    table = find_layers(Net(forward), torch.zeros(5, 5, 4), mask=torch.ones(5, 5).bool())
    assert [row.name for row in table.cuts] == ["a", "c"]


def test_an_embedding_of_positions_may_be_as_long_as_the_batch():
    model = Net(lambda m, x, places: m.c((m.a(x) + places).tanh().mean(1)))
    table = find_layers(model, torch.zeros(5, 5, 4), places=torch.zeros(5, 4))
    assert [row.name for row in table.cuts] == ["a", "c"]
    assert [item.kind for item in table.inputs] == ["data", "constant"]


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_any_batch_size(rows):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    table = find_layers(model, torch.zeros(rows, 4))
    assert [row.name for row in table.cuts] == ["0", "1", "2"]
    assert table.fake


# Structured outputs


@dataclass
class State:
    hidden: Tensor
    scale: float


class Structured(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> object:
        h = x * 2
        return {
            "tuple": (h, x * 3),
            "dict": {"deep": [h], "index": x.argmax(1)},
            "dataclass": State(h, 1.0),
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "read", "mixed"),
    [
        ("tuple", lambda o: o[0] + o[1], ("0", "1")),
        ("tuple", lambda o: o[0], ("0",)),
        ("dict", lambda o: o["deep"][0], ("deep.0",)),
        ("dataclass", lambda o: o.hidden, ("hidden",)),
    ],
)
def test_every_state_that_goes_on_is_mixed_and_no_other(kind, read, mixed):
    row = rows_of(Net(lambda m, x: m.c(read(m.s(m.a(x)))), s=Structured(kind)), x)["s"]
    assert (row.cut, row.mixed) == (True, mixed)


def test_an_integer_state_that_goes_on_is_refused():
    model = Net(
        lambda m, x: (lambda o: m.c(o["deep"][0] * o["index"][:, None]))(m.s(m.a(x))),
        s=Structured("dict"),
    )
    table = find_layers(model, x)
    assert "output 'index' is an integer tensor" in refused(table, "s")
    assert [row.name for row in table.cuts] == ["a", "c"]


# Token ids and masks


def test_token_ids_are_data_from_the_embedding_on():
    table = find_layers(Recurrent(nn.GRU), token_ids())
    assert [row.name for row in table.cuts] == ["embedding", "rnn1", "rnn2", "rnn3", "fc"]
    assert (table.inputs[0].name, table.inputs[0].kind) == ("ids", "data")
    assert table.default == ("rnn1", "rnn2")
    assert "Name the embedding layer" in refused(table, "input")


@pytest.mark.parametrize(
    "look_up",
    [
        lambda table, ids: table[ids],
        lambda table, ids: table.index_select(0, ids.flatten()).view(*ids.shape, 4),
        lambda table, ids: table.gather(0, ids.flatten()[:, None].expand(-1, 4)).view(
            *ids.shape, 4
        ),
        lambda table, ids: table.take(ids[..., None] * 4 + torch.arange(4)),
    ],
)
def test_token_ids_are_data_however_they_are_looked_up(look_up):
    # With a floating input, since otherwise numbers of any type count as data.
    model = Net(lambda m, ids, x: m.c(m.a(look_up(m.table, ids)).mean(1) + m.b(x)))
    model.table = nn.Parameter(torch.zeros(30, 4))
    table = find_layers(model, token_ids(), torch.zeros(4, 4))
    assert [item.kind for item in table.inputs] == ["data", "data"]
    assert [row.name for row in table.cuts] == ["a", "c"]
    assert [str(carry) for carry in table.cuts[0].carries] == ["'args.1' in 'b'"]
    model.function = lambda m, ids, x: m.c(m.b(x) + m.a(look_up(m.table, ids)).mean(1))
    table = find_layers(model, token_ids(), torch.zeros(4, 4))
    assert [row.name for row in table.cuts] == ["c"]
    assert "looks up rows by" in {row.name: row for row in table}["b"].reason


def test_states_that_choose_rows_of_a_table_are_a_path():
    def quantize(m, x):
        return m.c(m.e(torch.cdist(m.a(x), m.e.weight).argmin(1)))

    assert cuts_of(Net(quantize, e=nn.Embedding(9, 4)), x) == {"a", "e", "c"}
    assert cuts_of(Net(lambda m, x: quantize(m, x) + x, e=nn.Embedding(9, 4)), x) == set()


def test_token_ids_may_come_after_an_input_without_a_batch():
    def forward(m, scale, x, ids):
        return m.c(m.a(x) + m.e(ids).mean(1)) * scale

    table = find_layers(
        Net(forward, e=nn.Embedding(30, 4)), torch.tensor(2.0), torch.zeros(4, 4), token_ids()
    )
    assert [row.name for row in table.cuts] == ["a", "c"]
    assert [str(carry) for carry in table.cuts[0].carries] == ["'args.2' in 'e'"]
    assert [item.kind for item in table.inputs] == ["constant", "data", "data"]


def test_bytes_are_data_where_there_is_nothing_else():
    table = find_layers(Net(lambda m, x: m.c(m.a(x / 255))), torch.zeros(3, 4, dtype=torch.uint8))
    assert [row.name for row in table.cuts] == ["a", "c"]
    assert table.inputs[0].kind == "data"
    assert "'input' cannot be mixed" in refused(table, "input")


def test_bert_is_cut_between_blocks_if_there_is_no_padding():
    table = find_layers(bert(), token_ids())
    assert table.default == ("bert.encoder.layer.0", "bert.encoder.layer.1")
    assert {"bert.embeddings", "bert.pooler", "classifier"} <= {row.name for row in table.cuts}
    # The last block's output is read only at the pooled position.
    rows = {row.name: row for row in table}
    for name, given in (("attention.self", "attention.output"), ("intermediate", "output")):
        inside = rows[f"bert.encoder.layer.0.{name}"]
        assert inside.cut
        assert [carry.layer for carry in inside.carries] == [f"bert.encoder.layer.0.{given}"]
    assert "residual path" in rows["bert.encoder.layer.0.output.dense"].reason


def test_a_padding_mask_that_is_still_read_is_named():
    table = find_layers(bert(), input_ids=token_ids(), attention_mask=padding())
    rows = {row.name: row for row in table}
    for name in ("bert.embeddings", "bert.encoder.layer.0", "bert.encoder.layer.2"):
        assert not rows[name].cut
        assert rows[name].side == ("attention_mask",)
        assert rows[name].reason == (
            "the side input 'attention_mask' is still read after it; mask='attention_mask' mixes "
            "it too"
        )
        assert rows[name].mask == "attention_mask"
    assert rows["bert.encoder.layer.3"].cut
    message = refused(table, "bert.encoder.layer.0")
    assert "layer 'bert.encoder.layer.0' is bypassed: the side input 'attention_mask'" in message
    assert "'bert.encoder.layer.3.attention'" in message
    with pytest.raises(ValueError, match="the side input 'attention_mask' is read after them"):
        _ = table.default
    masked = table.with_mask("attention_mask")
    assert masked.default == ("bert.encoder.layer.0", "bert.encoder.layer.1")
    assert {row.name for row in masked.cuts} > {row.name for row in table.cuts}
    with pytest.raises(ValueError, match="mask='mask' names no input of this forward pass"):
        table.with_mask("mask")


def test_labels_given_to_a_model_are_to_be_left_out():
    """A margin or a loss inside the model, with a padding mask that is mixed or without."""
    ids, y = token_ids(), torch.tensor([0, 1, 2, 0, 1, 2])[: len(token_ids())]
    example = {"input_ids": ids, "attention_mask": padding(), "labels": y}
    with pytest.raises(ValueError, match=r"be, but the model itself .* Omit 'labels'") as caught:
        ManifoldMixup(bert(), mask="attention_mask", example=example)
    assert "attention_mask" not in str(caught.value)
    model = Net(lambda m, x, y=None: m.c(m.a(x)) + 0 if y is None else m.c(m.a(x)) - y[:, None])
    for layer in ("a", "input:args.0"):
        with pytest.raises(
            ValueError, match=r"'args.1' holds labels: leave them out.*wrap\(criterion\)"
        ):
            ManifoldMixup(model, [layer], example=(x, torch.tensor([0, 2, 1])))
        ManifoldMixup(model, [layer], example=(x,)).remove()


def test_a_detector_that_computes_its_losses_is_left_unmixed():
    """Whether it returns them alone, or beside its outputs."""
    boxes = {"labels": [{"boxes": torch.rand(count, 4)} for count in (1, 3, 2)]}

    def of_all(labels):
        return torch.stack([label["boxes"].sum() for label in labels]).sum()

    alone = Net(lambda m, x, labels: m.c(m.a(x)).sum() + of_all(labels))
    beside = Net(lambda m, x, labels: (m.c(h := m.a(x)), h.sum() * of_all(labels)))
    for model in (alone, beside):
        message = refused(find_layers(model, x, **boxes), "a")
        assert "no mean: leave a detector unmixed" in message
    assert "a loss from 'labels', with unmixed targets" in message


def test_positions_that_choose_among_states_are_a_side_input():
    model = Net(lambda m, x, places: m.c((2 * m.a(x)).gather(1, places)))
    table = find_layers(model, x, places=torch.zeros(3, 4, dtype=torch.long))
    assert {row.name: row.side for row in table} == {"a": ("places",), "c": ()}
    assert [item.kind for item in table.inputs] == ["data", "side"]


def test_positions_that_choose_among_the_outputs_of_a_layer_itself_are_mixed_there():
    model = Net(lambda m, x, places: m.c(m.a(x).gather(1, places)))
    places = torch.tensor([[0, 1, 2, 3], [3, 3, 2, 1], [1, 0, 0, 2]])
    table = find_layers(model, x, places=places)
    assert {row.name: (row.cut, row.ends) for row in table} == {
        "a": (True, (End("a", ""),)),
        "c": (True, ()),
    }
    mixup = ManifoldMixup(model, ["a"], example={"x": x, "places": places})
    plan = MixPlan("a", torch.tensor(0.3), torch.tensor([1, 2, 0]))
    with mixup.using(plan):
        output = model(x, places)
        mixup.target(None, output)
    h = 0.3 * model.a(x) + 0.7 * model.a(x)[plan.perm]
    taken = 0.3 * h.gather(1, places) + 0.7 * h.gather(1, places[plan.perm])
    torch.testing.assert_close(output, model.c(taken))


def test_a_floating_mask_is_a_side_input_too():
    model = Net(lambda m, x, mask: m.c(m.a(x) * mask))
    table = find_layers(model, x, mask=torch.ones(3, 1))
    assert {row.name: row.side for row in table} == {"a": ("mask",), "c": ()}
    assert [item.kind for item in table.inputs] == ["data", "side"]
