"""Every way of mixing in a model: compiled, checkpointed, resumed, with its targets."""

import copy
import itertools
import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.checkpoint import checkpoint

from manifold_mixup import (
    Align,
    Box,
    Cut,
    Holes,
    Interpolate,
    ManifoldMixup,
    MixedTarget,
    MixPlan,
    Noise,
    OneOf,
    PatchUp,
    SimilarityKernel,
    mix,
    sample_plan,
)
from with_positions import (
    BATCH,
    CLASSES,
    TARGET,
    Maps,
    Segments,
    TimeFirst,
    Tokens,
    UNet,
    build,
    by_positions,
    example,
)
from zoo import gradients

IN_TURN = OneOf((Interpolate(), 1), (Cut(), 1))
WAYS = {
    "cut": {"blend": Cut()},
    "cut each": {"blend": Cut(), "per_sample": True},
    "patches": {"blend": PatchUp(block=3)},
    "patches each": {"blend": PatchUp(block=3), "per_sample": True},
    "hard patches": {"blend": PatchUp(block=3, soft=False)},
    "similarity": {"blend": SimilarityKernel()},
    "aligned": {"blend": Align(rounds=2)},  # the compiler unrolls every round
    "noise": {"noise": Noise()},
    "in turn": {"blend": IN_TURN, "noise": Noise()},
}
BY_WAY = pytest.mark.parametrize("way", WAYS)

# What each way draws besides λ and the partners.
DRAWN = {
    "cut": {"box"},
    "cut each": {"box"},
    "patches": {"patches"},
    "patches each": {"patches"},
    "hard patches": {"patches"},
    "noise": {"noise", "level"},
    "in turn": {"box", "noise", "level"},
}
PLAIN = nn.CrossEntropyLoss()

pytestmark = [
    # The compiler reads `.grad` of tensors that cross a graph break.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.usefixtures("fresh_compiler"),
]


def case(*values, quick):
    """Return a case, which repeats others if it is not quick."""
    return pytest.param(*values, marks=() if quick else pytest.mark.thorough)


def attach(model, layers, way, x, **options):
    return ManifoldMixup(model, layers, example=x, seed=0, **WAYS[way], **options)


def losses(model, mixup, x, steps=6):
    criterion, found = mixup.wrap(PLAIN), []
    for _ in range(steps):
        loss = criterion(model(x), TARGET)
        loss.backward()
        found.append((loss.item(), mixup.plan))
    return found


def drawn_in(plan):
    """Map what was drawn for a plan, besides λ, to its numbers."""
    parts = {"partners": plan.perm}
    if isinstance(plan.weight, torch.Tensor):
        parts["box"] = plan.weight
    if isinstance(plan.weight, Holes):
        parts["patches"] = plan.weight.key
    if plan.noise is not None:
        parts["noise"] = plan.noise.key
        parts["level"] = torch.stack([plan.noise.add, plan.noise.multiply])
    return parts


def assert_same(found, expected):
    for (loss, plan), (other, wanted) in zip(found, expected, strict=True):
        assert loss == pytest.approx(other, rel=1e-5)
        assert plan.layer == wanted.layer
        torch.testing.assert_close(plan.target_lam, wanted.target_lam)
        parts, others = drawn_in(plan), drawn_in(wanted)
        assert parts.keys() == others.keys()
        assert all(torch.equal(parts[name], others[name]) for name in parts)


# Compiled and checkpointed


# In one graph or in several; boxes for all rows and noise are part of "in turn".
COMPILED = {
    "cut each": False,
    "patches each": True,
    "hard patches": False,
    "similarity": False,
    "aligned": True,
    "in turn": True,
}


@pytest.mark.parametrize(
    ("way", "fullgraph"),
    [case(way, whole, quick=COMPILED.get(way) == whole) for way in WAYS for whole in (False, True)],
)
def test_compiled_code_mixes_as_eager_code_does(way, fullgraph):
    eager, model = build("maps"), build("maps")
    x, layers = example(eager), ["conv1"] if fullgraph else ["input", "conv1"]
    wanted = losses(eager, attach(eager, layers, way, x), x)
    with torch._dynamo.config.patch(recompile_limit=32):
        compiled = torch.compile(model, backend="aot_eager", fullgraph=fullgraph)
        mixup = attach(compiled, layers, way, x)
        assert_same(losses(compiled, mixup, x), wanted)
    torch.testing.assert_close(gradients(model), gradients(eager))
    assert not mixup.skipped


class Pooled(nn.Module):
    """Little besides the mix, since the compiler takes a second for each of its loops."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, CLASSES, 3, padding=1)

    def forward(self, x):
        return self.conv(x).mean((2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [case(way, quick=way in ("patches each", "in turn")) for way in WAYS],
)
def test_the_default_backend(way):
    eager = Pooled()
    model, x = copy.deepcopy(eager), example(build("maps"))
    wanted = losses(eager, attach(eager, ["conv"], way, x), x)
    compiled = torch.compile(model, fullgraph=True)
    assert_same(losses(compiled, attach(compiled, ["conv"], way, x), x), wanted)
    torch.testing.assert_close(gradients(model), gradients(eager), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:2 eligible layers")
@pytest.mark.parametrize("blend", [IN_TURN, Align(rounds=2)], ids=["in turn", "aligned"])
def test_graphs_are_no_more_than_layers_and_ways(blend):
    model = build("maps")
    x = example(model)
    graphs = []

    def counting(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=counting)
    mixup = ManifoldMixup(compiled, ["conv1", "conv3"], example=x, blend=blend, seed=0)
    losses(compiled, mixup, x, steps=24)
    # two layers, each interpolated and cut, or aligned in both directions
    assert len(graphs) == 4


@pytest.mark.parametrize(
    ("layers", "blend", "says"),
    [
        (4, Cut(), "4 eligible layers need"),
        (2, IN_TURN, "2 eligible layers with 4 ways of mixing in all need"),
        (2, Align(), "2 eligible layers with 4 ways of mixing in all (Align has two) need"),
        (3, {"conv1": IN_TURN, "*": Cut()}, "3 eligible layers with 4 ways of mixing in all need"),
    ],
    ids=["one way", "in turn", "aligned", "by layer"],
)
def test_the_warning_of_too_many_graphs_counts_layers_and_ways(layers, blend, says):
    model = torch.compile(build("maps"), backend="eager")
    names = ["conv1", "conv2", "conv3", "input"][:layers]
    with pytest.warns(UserWarning, match=re.escape(f"{says} up to 9 compiled graphs")):
        ManifoldMixup(model, names, blend=blend)


def test_the_warning_counts_the_ways_of_each_layer_alone():
    blend = {"conv1": Interpolate(), "conv2": Cut(), "conv3": PatchUp(block=3)}
    ManifoldMixup(torch.compile(build("maps")), list(blend), blend=blend)  # a warning would raise


@pytest.mark.parametrize(
    ("way", "drawn", "stored"), [("cut", 0, 1), ("hard patches", 1, 1), ("patches each", 1, 1)]
)
def test_compiled_code_draws_once_and_keeps_weights_apart(way, drawn, stored):
    """The compiler of the CPU would compute a weight again for each row, or load it bit by bit."""
    model = build("maps")
    x = example(model)
    called = []

    def noting(graph, _):
        parts = [part for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
        called.extend(str(node.target) for part in parts for node in part.graph.nodes)
        return graph.forward

    compiled = torch.compile(model, backend=noting, fullgraph=True)
    losses(compiled, attach(compiled, ["conv1"], way, x), x, steps=1)
    count = {name: called.count(f"manifold_mixup.{name}") for name in ("patches", "stored")}
    assert count["patches"] == drawn
    assert count["stored"] == 2 * stored  # once forward, once backward


@pytest.mark.parametrize("way", [None, "cut", "hard patches", "patches each"])
def test_compiled_code_keeps_channels_last(way):
    """Gradients too; else every step would copy the state into another memory format."""
    x = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    grad = torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    lam, perm = torch.tensor([0.2, 0.4, 0.6, 0.8]), torch.tensor([1, 2, 3, 0])
    weight = {
        None: None,
        "cut": Box((0.4, 0.6), 0.4),
        "hard patches": Holes(3, 0.4, soft=False, key=1),
        "patches each": Holes(3, 0.4, soft=True, key=1),
    }[way]
    plan = MixPlan("", lam, perm, weight=weight)
    dims = None if way is None else (2, 3)
    compiled = torch.compile(mix, backend="aot_eager", fullgraph=True)
    both = []
    for function in (mix, compiled):
        mixed = function(x, plan, dims=dims)
        both.append((mixed, *torch.autograd.grad(mixed, x, grad)))
    for eager, found in zip(*both, strict=True):
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, eager)


@BY_WAY
@pytest.mark.parametrize("name", ["checkpoint", "reentrant"])
def test_a_recomputation_mixes_as_the_pass_did(way, name):
    plain, model = build("maps"), build(name)
    x, layers = example(plain), ["input", "conv1", "conv2", "conv3"]
    wanted = losses(plain, attach(plain, layers, way, x), x, steps=8)
    assert_same(losses(model, attach(model, layers, way, x), x, steps=8), wanted)
    torch.testing.assert_close(gradients(model), gradients(plain))


@pytest.mark.parametrize(
    "way",
    [
        case(way, quick=way in ("cut", "patches each", "hard patches", "noise"))
        for way in WAYS
        if way not in ("similarity", "aligned")
    ],
)
def test_a_compiled_checkpoint(way):
    plain, model = build("maps"), build("checkpoint")
    x, layers = example(plain), ["conv2"]
    wanted = losses(plain, attach(plain, layers, way, x), x)
    compiled = torch.compile(model, backend="aot_eager")
    assert_same(losses(compiled, attach(compiled, layers, way, x), x), wanted)
    torch.testing.assert_close(gradients(model), gradients(plain))


def test_a_compiled_checkpoint_cannot_tell_another_state():
    model = build("checkpoint")
    x = example(model)
    compiled = torch.compile(model, backend="aot_eager")
    attach(compiled, ["conv2"], "cut", x)
    with pytest.raises(RuntimeError, match=r"compiled activation checkpoint.*example="):
        compiled(x[..., :6])


@pytest.mark.parametrize(
    ("way", "name"), [("similarity", "SimilarityKernel"), ("aligned", "Aligned")]
)
def test_a_compiled_checkpoint_cannot_tell_the_state_that_decides(way, name):
    model = build("checkpoint")
    x = example(model)
    compiled = torch.compile(model, backend="aot_eager")
    attach(compiled, ["conv2"], way, x)
    with pytest.raises(RuntimeError, match=rf"compiled activation checkpoint.*{name}"):
        compiled(x)


class CheckpointedRows(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.head(checkpoint(self.stem, x, use_reentrant=False))


def test_a_box_for_a_compiled_checkpoint_without_positions():
    x = torch.randn(BATCH, 4)
    model = torch.compile(CheckpointedRows(), backend="aot_eager")
    mixup = ManifoldMixup(model, ["stem"], example=x)
    plan = MixPlan("stem", 0.5, torch.arange(BATCH).roll(1), weight=Box((0.5,), 0.5))
    with mixup.using(plan), pytest.raises(ValueError, match="choose a layer with positions"):
        model(x)


@pytest.mark.parametrize("way", [case("noise", quick=False), "cut", "similarity"])
def test_what_is_mixed_besides_breaks_no_graph(way):
    eager, model = UNet(), UNet()
    model.load_state_dict(eager.state_dict())
    x, y = model.example(), torch.randint(CLASSES, (BATCH, 8, 12))
    wanted = attach(eager, ["down2"], way, x).wrap(PLAIN)(eager(x), y)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss = attach(compiled, ["down2"], way, x).wrap(PLAIN)(compiled(x), y)
    torch.testing.assert_close(loss, wanted)


class Conditioned(nn.Module):
    """A linear layer, a second input that joins after it, then attention, perhaps padded."""

    def __init__(self):
        super().__init__()
        self.stem, self.join = nn.Linear(2, 6), Join()
        self.block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x, more, pad=None):
        h = checkpoint(self.join, self.stem(x), more, use_reentrant=False)
        h = checkpoint(self.block, h, None, pad, use_reentrant=False)
        return self.head(h[:, 0])

    def inputs(self, padded):
        x, more = torch.randn(BATCH, 6, 2), torch.randn(BATCH, 6, 2)
        pad = torch.arange(6) >= torch.tensor([6, 4, 5, 3, 6, 2])[:, None]
        return {"x": x, "more": more, **({"pad": pad} if padded else {})}


class Join(nn.Module):
    def forward(self, h, more):
        return torch.cat([torch.relu(h), more], -1)


AFTER = [
    ("cut", "stem", "model"),
    ("similarity", "input:x", "blocks"),
    ("masked similarity", "stem", "blocks"),
]


@pytest.mark.parametrize(
    ("way", "layer", "what"),
    [
        case(*values, quick=values in AFTER)
        for values in itertools.product(
            ("cut", "similarity", "masked similarity"), ("input:x", "stem"), ("blocks", "model")
        )
    ],
)
def test_compiled_code_after_the_layer_mixes_as_the_state_says(way, layer, what):
    way, masked = way.removeprefix("masked "), way.startswith("masked")
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = Conditioned()
        batch = model.inputs(masked)
        options = {"mask": "pad"} if masked else {}
        mixup = attach(model, [layer], way, batch, **options)
        for module in (model.join, model.block) if what == "blocks" else (model,):
            if compiled:
                module.compile(backend="aot_eager")
        loss = mixup.wrap(PLAIN)(model(**batch), TARGET)
        loss.backward()
        found.append((loss.detach(), *gradients(model).values()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# Plans


@BY_WAY
def test_a_plan_is_used_again_and_resumed(way):
    model = build("maps")
    x, layers = example(model), ["input", "conv1", "conv3"]
    mixup = attach(model, layers, way, x)
    first = losses(model, mixup, x, steps=3)
    state = mixup.state_dict()
    rest = losses(model, mixup, x, steps=3)
    for loss, plan in first:
        with mixup.using(plan):
            again = mixup.wrap(PLAIN)(model(x), TARGET)
        assert again.item() == pytest.approx(loss, rel=1e-6)
    other = attach(build("maps"), layers, way, x)
    other.load_state_dict(state)
    assert_same(losses(other._attachment.model, other, x, steps=3), rest)


@pytest.mark.parametrize("way", ["cut", "cut each", "patches", "hard patches"])
def test_two_passes_by_one_drawn_plan_have_one_loss(way):
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], way, x)
    blend, each = WAYS[way]["blend"], WAYS[way].get("per_sample", False)
    plan = sample_plan(BATCH, layers=["conv1"], alpha=1.0, blend=blend, per_sample=each)
    with mixup.using(plan):
        one, other = model(x), model(x)
    criterion = nn.CrossEntropyLoss()
    loss = mixup.wrap(criterion)(one + other, TARGET)
    with mixup.using(mixup.plan):
        wanted = mixup.wrap(criterion)(2 * model(x), TARGET)
    torch.testing.assert_close(loss, wanted)


def test_a_completed_plan_of_patches_is_for_its_sides():
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], "patches", x)
    model(x)
    plan = mixup.plan
    with mixup.using(plan):
        model(x)
        with pytest.raises(ValueError, match=r"sides \(9, 8\), but this one has \(9, 16\)"):
            model(torch.cat([x, x], 3))


@pytest.mark.parametrize("way", ["similarity", "aligned"])
def test_passes_whose_states_decide_are_not_one(way):
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], way, x)
    plan = sample_plan(BATCH, layers=["conv1"], alpha=1.0, **WAYS[way])
    with mixup.using(plan):
        both = model(x) + model(2 * x)
    with pytest.raises(RuntimeError, match=r"several forward passes.*using\(mixup.plan\)"):
        mixup.wrap(PLAIN)(both, TARGET)


@BY_WAY
def test_ranks_draw_their_own(way, monkeypatch):
    from manifold_mixup._draw import stream

    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], way, x)
    ours = [plan for _, plan in losses(model, mixup, x)]
    mixup.load_state_dict({"seed": 0, "step": 0, "stream": 2})
    monkeypatch.setattr(stream, "_rank", lambda: 1)
    theirs = [plan for _, plan in losses(model, mixup, x)]
    compared = set()
    for one, two in zip(map(drawn_in, ours), map(drawn_in, theirs), strict=True):
        for name in one.keys() & two.keys():  # ways in turn are not the same on both
            assert not torch.equal(one[name], two[name]), name
            compared.add(name)
    assert compared == {"partners"} | DRAWN.get(way, set())


@BY_WAY
def test_eval_mode_and_pauses_are_left_alone(way):
    model, plain = build("maps"), build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], way, x)
    with mixup.paused():
        assert torch.equal(model(x), plain(x))
    assert torch.equal(model.eval()(x), plain.eval()(x))
    assert mixup.plan is None or mixup.state_dict()["step"] == 0


@BY_WAY
def test_a_schedule_switches_every_way_off(way):
    model, plain = build("maps"), build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], way, x, alpha=lambda step: None if step else 1.0)
    losses(model, mixup, x, steps=1)
    assert mixup.plan is not None
    assert torch.equal(model(x), plain(x))  # noise is off too
    assert mixup.plan is None
    assert mixup.state_dict()["step"] == 2


@BY_WAY
def test_autocast_keeps_the_dtype(way):
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], way, x)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
    assert output.dtype == torch.bfloat16
    mixup.wrap(PLAIN)(output.float(), TARGET).backward()


# What each way is


def state_of(model, layer, x):
    """Return the state before and after it is mixed."""
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: seen.append(output.detach().clone()), prepend=True
    )
    after = model.get_submodule(layer).register_forward_hook(
        lambda module, args, output: seen.append(output.detach().clone())
    )
    model(x)
    handle.remove()
    after.remove()
    return seen


@pytest.mark.parametrize("way", ["patches", "patches each", "hard patches"])
def test_patches_take_features_by_their_weights(way):
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], way, x)
    before, after = state_of(model, "conv1", x)
    plan = mixup.plan
    assert isinstance(plan.weight, Holes)
    own = plan.weight.own(plan.lam, before.shape[1:2], before.shape[2:], x.device).float()
    torch.testing.assert_close(after, own * before + (1 - own) * before[plan.perm])
    torch.testing.assert_close(plan.label, own.flatten(1).mean(1).squeeze())


def test_similarity_decides_by_the_state():
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], "similarity", x)
    before, after = state_of(model, "conv1", x)
    lam, perm = mixup.plan.lam, mixup.plan.perm
    assert lam.shape == (BATCH,)
    share = lam.view(-1, 1, 1, 1)
    torch.testing.assert_close(after, share * before + (1 - share) * before[perm])


@pytest.mark.parametrize("name", ["time", case("maps", quick=False), "channels last", "tokens"])
def test_aligned_positions_are_those_of_a_transport_plan(name):
    """Against Sinkhorn's algorithm on a kernel, and features moved by the plan."""
    model = build(name)
    layer = {"tokens": "block1", "channels last": "fc1"}.get(name, "conv1")
    x, sides = example(model), set()
    mixup = ManifoldMixup(model, [layer], example=x, blend=Align(rounds=2000), seed=0)
    for _ in range(6):
        if len(sides) == 2:  # which partner's features move is drawn
            break
        before, after = state_of(model, layer, x)
        plan, dims = mixup.plan, list(model.dims(layer))
        sides.add(plan.weight.moves_own)
        last = [dim for dim in range(1, before.ndim) if dim not in dims]
        own, mixed = (
            part.permute(0, *dims, *last).flatten(1, len(dims)).flatten(2).double()
            for part in (before, after)
        )
        if name == "tokens":  # the class token is interpolated
            classes = plan.lam * own[:, :1] + (1 - plan.lam) * own[plan.perm, :1]
            torch.testing.assert_close(mixed[:, :1], classes, atol=1e-5, rtol=1e-5)
            own, mixed = own[:, 1:], mixed[:, 1:]
        partner = own[plan.perm]
        cost = (own[:, :, None] - partner[:, None]).square().sum(3)
        kernel = torch.exp(-cost / cost.mean((1, 2), keepdim=True) / 0.1)
        rows = torch.ones_like(kernel[:, :, :1])
        for _ in range(2000):
            columns = 1 / (kernel.mT @ rows)
            rows = 1 / (kernel @ columns)
        shares = rows * kernel * columns.mT
        torch.testing.assert_close(shares.sum(1), torch.ones_like(shares.sum(1)), atol=1e-3, rtol=0)
        if plan.weight.moves_own:
            expected = plan.lam * (shares.mT @ own) + (1 - plan.lam) * partner
        else:
            expected = plan.lam * own + (1 - plan.lam) * (shares @ partner)
        torch.testing.assert_close(mixed, expected, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(plan.target_lam, plan.lam)
    assert sides == {True, False}


def test_ways_by_layer():
    model = build("maps")
    x = example(model)
    blend = {"input": Cut(), "conv1": Interpolate(), "*": OneOf((PatchUp(block=3), 1))}
    mixup = ManifoldMixup(model, ["input", "conv1", "conv2"], example=x, blend=blend, seed=0)
    kinds = {}
    for _, plan in losses(model, mixup, x, steps=20):
        kinds.setdefault(plan.layer, set()).add(type(plan.weight))
    assert kinds == {"input": {torch.Tensor}, "conv1": {type(None)}, "conv2": {Holes}}
    assert mixup.verify(x).ok
    with pytest.raises(ValueError, match=r"not that of the eligible layer 'conv1'"):
        ManifoldMixup(model, ["input", "conv1"], blend={"input": Cut()}, replace=True)
    with pytest.raises(ValueError, match=r"names the way of 'conv9'"):
        ManifoldMixup(model, ["conv1"], blend={"conv9": Cut(), "*": Cut()}, replace=True)
    with pytest.raises(TypeError, match=r"the class Cut"):
        ManifoldMixup(model, ["conv1"], blend={"*": Cut}, replace=True)


def test_only_layers_that_are_cut_need_positions():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    x = torch.randn(BATCH, 2, 6, 6)
    blend = {"input": Cut(), "2": Interpolate()}
    mixup = ManifoldMixup(model, ["input", "2"], example=x, blend=blend, seed=0)
    assert mixup.layers == ("input", "2")
    with pytest.raises(ValueError, match=r"Cut cannot be used at '2'"):
        ManifoldMixup(model, ["input", "2"], example=x, blend=Cut(), replace=True)


def test_noise_is_on_top_of_the_mix():
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], "noise", x)
    before, after = state_of(model, "conv1", x)
    torch.testing.assert_close(after, mix(before, mixup.plan))
    lam, perm = mixup.plan.lam, mixup.plan.perm
    plain = lam * before + (1 - lam) * before[perm]
    torch.testing.assert_close(after, mixup.plan.noise.on(plain))
    assert (after - plain).std() > 0.01


# Cut sets


@pytest.mark.parametrize("way", ["cut", "cut each", "hard patches", "similarity", "noise"])
def test_a_skipped_map_is_cut_by_the_same_box(way):
    torch.manual_seed(0)
    model = UNet()
    x = model.example()
    maps = torch.randint(CLASSES, (BATCH, *x.shape[2:]))
    mixup = attach(model, ["down2"], way, x)
    assert mixup.verify(x).ok
    given = []
    model.merge.register_forward_pre_hook(lambda module, args: given.append(args[1].detach()))
    output = model(x)
    plan = mixup.plan
    skip = model.down1(x)
    if way in ("cut", "cut each"):
        assert plan.weight.shape[1:] == (4, 6)
        torch.testing.assert_close(given[0], by_positions(skip, plan.weight, plan.perm, (2, 3)))
        expected = by_positions(maps, plan.weight, plan.perm, (1, 2)).long()
        loss = mixup.wrap(PLAIN)(output, maps)
        assert torch.equal(loss, cross_entropy(output, expected))
    if way == "hard patches":
        own = plan.weight.own(plan.lam, [6], (4, 6), x.device)[:, 0]
        torch.testing.assert_close(given[0], by_positions(skip, own, plan.perm, (2, 3)))


class OddUNet(UNet):
    """A U-Net for all sides: of odd ones, the low map has half, rounded up."""

    def forward(self, x):
        skip = self.down1(x)
        up = self.up(torch.relu(self.down2(torch.relu(skip))))
        return self.join(self.merge(up[:, :, : skip.shape[2], : skip.shape[3]], skip))


class Segmenter(Tokens):
    """Tokens go back to the map that they were made of, to which one of every pixel is added."""

    def __init__(self):
        super().__init__()
        self.stem, self.add = nn.Conv2d(3, 8, 3, padding=1), Add()

    def forward(self, x):
        skip, patches = self.stem(x), self.embed(x)
        tokens = self.block1(patches.flatten(2).transpose(1, 2))
        low = tokens.transpose(1, 2).unflatten(2, patches.shape[2:])
        return self.add(interpolate(low, size=skip.shape[2:]), skip)


class Add(nn.Module):
    def forward(self, low, skip):
        return low + torch.relu(skip)


@pytest.mark.parametrize("way", ["cut", "hard patches"])
@pytest.mark.parametrize(
    ("make", "layer", "shape", "grid", "fitting"),
    [
        (OddUNet, "down2", (2, 9, 11), (5, 6), (10, 12)),
        (OddUNet, "down2", (2, 8, 11), (4, 6), (8, 12)),
        (Segmenter, "block1", (3, 18, 13), (4, 3), (16, 12)),
    ],
    ids=["odd", "one odd", "tokens"],
)
def test_sides_that_do_not_divide_are_refused_before_the_pass(
    make, layer, shape, grid, fitting, way
):
    model, x = make(), torch.randn(BATCH, *shape)
    sides = f"[{grid}, {shape[1:]}]"
    says = re.escape(
        f"{layer!r}: it is mixed with other tensors, whose sides {sides} do not divide"
    )
    with pytest.raises(ValueError, match=says):
        attach(model, [layer], way, x)
    mixup = ManifoldMixup(model, [layer], seed=0, **WAYS[way])
    with pytest.raises(ValueError, match=says):
        model(x)
    assert mixup.state_dict()["step"] == 0
    model(torch.randn(BATCH, shape[0], *fitting))
    assert mixup.plan.layer == layer


@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("cut", "sides (4, 6), which do not divide those of the state, (8, 11)"),
        ("hard patches", "sides (8, 11) is mixed with one that is coarser by the factors (2, 2)"),
    ],
)
def test_a_later_batch_whose_sides_do_not_divide_is_refused(way, says):
    model = OddUNet()
    attach(model, ["down2"], way, model.example())
    with pytest.raises(ValueError, match=re.escape(says)):
        model(torch.randn(BATCH, 2, 8, 11))
    model(model.example())  # the error has put everything back


class Conditional(nn.Module):
    """A condition without positions is read after the map."""

    def __init__(self):
        super().__init__()
        self.stem, self.shift = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(5, 4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x, condition):
        h = torch.relu(self.stem(x)) + self.shift(condition)[:, :, None, None]
        return self.head(torch.relu(h).mean((2, 3)))


@pytest.mark.parametrize("way", ["cut", "cut each", "patches", "hard patches", "aligned"])
def test_what_has_no_positions_is_interpolated_by_the_share(way):
    torch.manual_seed(0)
    model, given = Conditional(), []
    x, condition = torch.randn(BATCH, 2, 6, 5), torch.randn(BATCH, 5)
    mixup = attach(model, ["stem"], way, (x, condition))
    model.shift.register_forward_pre_hook(lambda module, args: given.append(args[0].detach()))
    model(x, condition)
    share, perm = mixup.plan.target_lam, mixup.plan.perm
    share = share.view(-1, 1) if share.ndim else share
    torch.testing.assert_close(given[0], share * condition + (1 - share) * condition[perm])
    assert mixup.verify(x, condition).ok


# Dense targets


def segmented(axes=2, stride=1, way="cut"):
    torch.manual_seed(0)
    model = Segments(axes, stride)
    x = torch.randn(BATCH, 2, *(8, 6)[:axes])
    mixup = attach(model, ["stem"], way, x)
    output = model(x)
    sides = output.shape[2:]
    return mixup, output, sides


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("way", ["cut", "cut each"])
def test_a_class_for_each_position_is_selected(axes, stride, way):
    mixup, output, sides = segmented(axes, stride, way)
    y = torch.randint(CLASSES, (BATCH, *sides))
    plan, dims = mixup.plan, tuple(range(1, 1 + axes))
    expected = by_positions(y, plan.weight, plan.perm, dims).long()
    for criterion in (
        PLAIN,
        nn.CrossEntropyLoss(reduction="none"),
        lambda o, t: cross_entropy(o, t),
    ):
        assert torch.equal(mixup.wrap(criterion)(output, y), criterion(output, expected))
    mixed = mixup.target(y, output)
    one_hot = nn.functional.one_hot(expected, CLASSES).movedim(-1, 1).float()
    assert torch.equal(mixed.soft(CLASSES), one_hot)
    assert mixed.accuracy(output) == (output.argmax(1) == expected).float().mean()


def test_maps_masks_and_weights_of_pixels_are_selected():
    mixup, output, sides = segmented()
    plan = mixup.plan
    y = torch.rand(BATCH, CLASSES, *sides)
    expected = by_positions(y, plan.weight, plan.perm, (2, 3))
    torch.testing.assert_close(
        mixup.wrap(nn.MSELoss())(output, y), (output - expected).square().mean()
    )
    probabilities = y / y.sum(1, keepdim=True)
    wanted = cross_entropy(output, by_positions(probabilities, plan.weight, plan.perm, (2, 3)))
    torch.testing.assert_close(mixup.wrap(PLAIN)(output, probabilities), wanted)

    def weighted(output, y, weights):
        return (cross_entropy(output, y, reduction="none") * weights).mean()

    classes, weights = torch.randint(CLASSES, (BATCH, *sides)), torch.rand(BATCH, *sides)
    loss = mixup.wrap(weighted, with_target="weights")(output, classes, weights)
    both = (by_positions(part, plan.weight, plan.perm, (1, 2)) for part in (classes, weights))
    own, counts = both
    torch.testing.assert_close(loss, weighted(output, own.long(), counts))
    with pytest.raises(ValueError, match=r"'target' has positions.*'weights' has none"):
        mixup.wrap(
            lambda o, y, weights: weighted(o, y, weights[:, None, None]), with_target="weights"
        )(output, classes, torch.rand(BATCH))


def test_labels_of_whole_examples_count_by_the_share():
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], "cut", x)
    output = model(x)
    plan = mixup.plan
    loss = mixup.wrap(PLAIN)(output, TARGET)
    share = plan.weight.float().mean()
    wanted = share * cross_entropy(output, TARGET) + (1 - share) * cross_entropy(
        output, TARGET[plan.perm]
    )
    torch.testing.assert_close(loss, wanted)


def test_targets_whose_positions_do_not_fit_or_are_not_clear():
    mixup, output, _ = segmented()
    with pytest.raises(ValueError, match=r"no multiples of the 8 × 6"):
        mixup.target(torch.randint(CLASSES, (BATCH, 7, 6)), output).soft(CLASSES)
    mixup, output, sides = segmented(axes=1)
    bits = torch.rand(BATCH, *sides)
    per_place = lambda output, y: (output.mean(1) - y).square().mean()  # noqa: E731
    with pytest.raises(ValueError, match=r"Pass dense=\(1,\) to.*or dense=False"):
        mixup.wrap(per_place)(output, bits)
    chosen = by_positions(bits, mixup.plan.weight, mixup.plan.perm, (1,))
    loss = mixup.wrap(per_place, dense=True)(output, bits)
    torch.testing.assert_close(loss, per_place(output, chosen))
    share = mixup.plan.target_lam
    loss = mixup.wrap(per_place, dense=False)(output, bits)
    wanted = share * per_place(output, bits) + (1 - share) * per_place(
        output, bits[mixup.plan.perm]
    )
    torch.testing.assert_close(loss, wanted)
    with pytest.raises(ValueError, match="has not 1 dimensions"):
        mixup.target(TARGET, output, dense=True).soft(CLASSES)
    with pytest.raises(TypeError, match="dense must be"):
        mixup.wrap(PLAIN, dense="yes")


def cut_plan(*sides):
    own = torch.ones(1, *sides, dtype=torch.bool)
    own[(0, *(slice(side // 2) for side in sides))] = False
    return MixPlan("x", 0.5, torch.arange(BATCH).roll(1), weight=own)


def squared_error_of(y, plan, **options):
    return MixedTarget(y, plan, **options).loss(nn.MSELoss(), torch.zeros_like(y))


# the sides of the state, the shape of the target, and the dimensions that are positions
CLEAR = {
    "maps": ((4, 4), (BATCH, 3, 8, 8), (2, 3)),
    "channels last": ((8, 8), (BATCH, 32, 32, 16), (1, 2)),
    "channels last, of which some fit": ((4, 4), (BATCH, 8, 8, 4), (1, 2)),
    "a mask": ((4, 4), (BATCH, 8, 8), (1, 2)),
    "sequences": ((8,), (BATCH, 8, 5), (1,)),
    "sequences, channels first": ((8,), (BATCH, 5, 16), (2,)),
}
UNCLEAR = {
    "channels as many as times": ((8,), (BATCH, 8, 16), (1,)),
    "objects with four numbers": ((4, 4), (BATCH, 16, 4), ()),
    "tokens with features": ((8, 8), (BATCH, 64, 192), (1,)),
    "tokens or a mask": ((8, 8), (BATCH, 64, 64), (1,)),
    "numbers of tokens": ((4, 3), (BATCH, 12), (1,)),
    "a cube": ((4, 4), (BATCH, 8, 8, 8), (2, 3)),
}


@pytest.mark.parametrize("case", CLEAR)
def test_positions_of_numbers_are_found_where_one_reading_fits(case):
    sides, shape, dims = CLEAR[case]
    y, plan = torch.rand(shape), cut_plan(*sides)
    wanted = by_positions(y, plan.weight, plan.perm, dims).square().mean()
    torch.testing.assert_close(squared_error_of(y, plan), wanted)


@pytest.mark.parametrize("case", UNCLEAR)
def test_positions_of_numbers_are_asked_for_where_several_fit(case):
    sides, shape, dims = UNCLEAR[case]
    y, plan = torch.rand(shape), cut_plan(*sides)
    with pytest.raises(ValueError, match=r"which dimensions.*dense=\(.*or dense=False"):
        squared_error_of(y, plan)
    own = plan.weight.flatten(1) if dims == (1,) else plan.weight
    wanted = by_positions(y, own, plan.perm, dims) if dims else y
    loss = squared_error_of(y, plan, dense=dims or False)
    if dims:
        torch.testing.assert_close(loss, wanted.square().mean())
    else:
        share = plan.target_lam
        mixed = share * y + (1 - share) * y[plan.perm]
        torch.testing.assert_close(loss, mixed.square().mean())


def test_a_class_for_each_token_is_selected_row_by_row():
    plan, output = cut_plan(4, 3), torch.randn(BATCH, 8, 12)
    own = plan.weight.flatten(1)
    classes, soft = torch.randint(8, (BATCH, 12)), torch.rand(BATCH, 8, 12).softmax(1)
    for y, dim in ((classes, 1), (soft, 2)):
        expected = by_positions(y, own, plan.perm, (dim,)).to(y.dtype)
        loss = MixedTarget(y, plan).loss(PLAIN, output)
        torch.testing.assert_close(loss, cross_entropy(output, expected))
    assert torch.equal(
        MixedTarget(classes, plan).soft(8).argmax(1), torch.where(own, classes, classes[plan.perm])
    )


def test_probabilities_are_not_selected_by_class():
    plan, output = cut_plan(8), torch.randn(BATCH, 8, 5)
    y = torch.rand(BATCH, 8, 5).softmax(1)
    with pytest.raises(ValueError, match="no multiples of the 8"):
        MixedTarget(y, plan).loss(PLAIN, output)


def test_lists_of_classes_have_no_positions():
    plan, share = cut_plan(10), cut_plan(10).target_lam
    y, output = torch.randint(1, 5, (BATCH, 10)), torch.randn(20, BATCH, 5).log_softmax(2)
    lengths = torch.full((BATCH,), 20), torch.full((BATCH,), 10)
    criterion = nn.CTCLoss()
    wanted = share * criterion(output, y, *lengths)
    wanted = wanted + (1 - share) * criterion(output, y[plan.perm], *lengths)
    torch.testing.assert_close(MixedTarget(y, plan).loss(criterion, output, *lengths), wanted)
    y, output = torch.full((BATCH, 10), -1), torch.randn(BATCH, 10)
    y[:, 0] = torch.arange(BATCH)
    criterion = nn.MultiLabelMarginLoss()
    wanted = share * criterion(output, y) + (1 - share) * criterion(output, y[plan.perm])
    torch.testing.assert_close(MixedTarget(y, plan).loss(criterion, output), wanted)


def test_dimensions_count_as_the_target_has_them():
    plan, y = cut_plan(8), torch.rand(8, BATCH, 16)
    wanted = by_positions(y.movedim(1, 0), plan.weight, plan.perm, (1,)).square().mean()
    loss = squared_error_of(y, plan, batch_dim=1, dense=(0,))
    torch.testing.assert_close(loss, wanted)
    with pytest.raises(ValueError, match=r"\(8, 6, 16\).*dense=\(0,\) or dense=\(2,\)"):
        squared_error_of(y, plan, batch_dim=1)


@pytest.mark.parametrize(
    ("dense", "kind", "message"),
    [
        (1, TypeError, r"as in \(1, 2\), but is 1"),
        ((), ValueError, "different dimensions"),
        ((1, 1), ValueError, "different dimensions"),
        ((0, 1), ValueError, "the batch at dimension 0"),
        ((1, 5), ValueError, "2 axes"),
        ((3,), ValueError, "no multiples"),
    ],
)
def test_dimensions_that_are_none(dense, kind, message):
    with pytest.raises(kind, match=message):
        squared_error_of(torch.rand(BATCH, 3, 8, 8), cut_plan(4, 4), dense=dense)


# Refusals


def test_a_layer_without_positions_is_refused_with_the_way_out():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(BATCH, 4)
    with pytest.raises(ValueError, match=r"Cut cannot be used at '0': it has no positions.*dims="):
        ManifoldMixup(model, ["0"], example=x, blend=Cut())
    mixup = ManifoldMixup(model, ["0"], blend=Cut())
    with pytest.raises(ValueError, match=r"Cut cannot be used at '0'"):
        model(x)
    mixup.remove()
    mixup = ManifoldMixup(model, ["0"], blend=Cut(), check=False)
    with pytest.raises(ValueError, match=r"Attach with blend=Cut\(dims=...\)"):
        model(x)


def test_the_choice_leaves_out_what_has_no_positions():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 400), nn.ReLU(), nn.Linear(400, 400),
        nn.ReLU(), nn.Linear(400, 3),
    )  # fmt: skip
    x = torch.randn(BATCH, 2, 6, 6)
    every = ManifoldMixup(model, example=x).layers
    chosen = ManifoldMixup(model, example=x, blend=Cut(), replace=True).layers
    assert 0 < len(chosen) < len(every)
    assert set(chosen) < set(every)


def test_mix_by_a_plan_that_weighs_positions():
    x = torch.randn(BATCH, 2, 5, 4)
    plan = MixPlan("", 0.75, torch.arange(BATCH).roll(1), weight=Box((0.3, 0.9), 0.25))
    own = plan.weight.own((5, 4))
    torch.testing.assert_close(mix(x, plan, dims=(2, 3)), by_positions(x, own, plan.perm, (2, 3)))
    swapped = mix(x.transpose(0, 1), plan, batch_dim=1, dims=(2, 3)).transpose(0, 1)
    assert torch.equal(swapped, mix(x, plan, dims=(2, 3)))
    with pytest.raises(ValueError, match=r"pass dims="):
        mix(x, plan)
    for dims in ((0, 2), (2, 2), (), (-1,), (1, 2, 3, 4)):
        with pytest.raises(ValueError, match=r"one to three different .* other than the batch"):
            mix(x[..., None], plan, dims=dims)
    with pytest.raises(ValueError, match=r"pairs 6 examples"):
        mix(x[:3], plan, dims=(2, 3))


def test_dims_say_what_cannot_be_found():
    model = build("maps")
    x = example(model)
    mixup = ManifoldMixup(model, ["conv1"], blend=Cut(dims={"conv1": 3}), check=False, seed=0)
    model(x)
    assert mixup.plan.weight.shape == (1, 8)


@pytest.mark.parametrize("check", [False, True])
def test_dims_count_the_batch_where_it_is(check):
    model, x = TimeFirst(), torch.randn(5, BATCH, 2)
    options = {"example": x if check else None, "check": check, "batch_dim": 1, "seed": 0}
    mixup = ManifoldMixup(model, ["first"], blend=Cut(dims=0), **options)
    y = torch.randint(CLASSES, (5, BATCH))
    loss = mixup.wrap(lambda o, t: cross_entropy(o.flatten(0, 1), t.flatten()))(model(x), y)
    plan = mixup.plan
    assert plan.weight.shape == (1, 5)
    state = model.first(x).movedim(1, 0)  # hooks are idle out of a pass
    state = by_positions(state, plan.weight, plan.perm, (1,)).movedim(0, 1)
    chosen = torch.where(plan.weight.T, y, y[:, plan.perm])
    wanted = cross_entropy(model.head(torch.tanh(state)).flatten(0, 1), chosen.flatten())
    torch.testing.assert_close(loss, wanted)
    mixup.remove()

    def attach_and_run():
        ManifoldMixup(model, ["first"], blend=Cut(dims=1), **options)
        model(x)

    with pytest.raises(ValueError, match=r"dimension 1 of .*holds the batch"):
        attach_and_run()


def test_the_order_of_dims_is_that_of_the_state():
    model = Segments()
    x, y = torch.randn(BATCH, 2, 8, 6), torch.randint(CLASSES, (BATCH, 8, 6))
    mixup = ManifoldMixup(model, ["stem"], example=x, blend=Cut(dims=(3, 2)), seed=0)
    output = model(x)
    assert mixup.plan.weight.shape == (1, 8, 6)
    mixup.wrap(PLAIN)(output, y)


def test_ways_in_turn_have_the_same_dims():
    both = OneOf((Cut(dims=(2,)), 1), (PatchUp(block=3, dims=(2, 3)), 1))
    with pytest.raises(ValueError, match=r"\(2,\) and \(2, 3\) of layer 'conv1'"):
        ManifoldMixup(build("maps"), ["conv1"], blend=both, check=False)


def test_a_block_larger_than_the_state():
    model = build("maps")
    with pytest.raises(ValueError, match=r"PatchUp cannot be used at 'conv3'.*block of 7"):
        ManifoldMixup(model, ["conv3"], example=example(model), blend=PatchUp())


class Masked(Maps):
    def forward(self, x, mask=None):
        return super().forward(x)


@pytest.mark.parametrize(
    ("blend", "name"),
    [
        (Cut(), "Cut"),
        (PatchUp(block=3), "PatchUp"),
        (PatchUp(block=3, soft=False), "PatchUp"),
        (Align(), "Align"),
        (IN_TURN, "Cut"),
        ({"conv1": Interpolate(), "*": Align()}, "Align"),
        ({"conv1": OneOf((SimilarityKernel(), 1), (PatchUp(), 1))}, "PatchUp"),
    ],
    ids=str,
)
def test_masks_and_positions_do_not_go_together(blend, name):
    model = Masked()
    with pytest.raises(ValueError, match=rf"blend={name}\(.*mask='mask'.*no common positions"):
        ManifoldMixup(model, ["conv1"], blend=blend, mask="mask")
    without = {"conv1": OneOf((Interpolate(), 1), (SimilarityKernel(), 1))}
    ManifoldMixup(model, ["conv1"], blend=without, mask="mask")  # and nothing was left attached


def test_a_plan_by_position_at_a_layer_of_which_nothing_is_known():
    model = build("maps")
    x = example(model)
    mixup = ManifoldMixup(model, ["conv1"], check=False)
    for weight in (Box((0.5, 0.5), 0.5), torch.ones(1, 3, 3)):
        plan = MixPlan("conv1", 0.5, torch.arange(BATCH), weight=weight)
        with mixup.using(plan), pytest.raises(ValueError, match="not known which dimensions"):
            model(x)
    mixup = ManifoldMixup(model, ["conv1"], example=x, replace=True)
    plan = MixPlan("conv1", 0.5, torch.arange(BATCH), weight=torch.ones(1, 5, 3))
    with mixup.using(plan), pytest.raises(ValueError, match=r"sides \(5, 3\).*do not divide"):
        model(x)
    plan = MixPlan("conv1", 0.5, torch.arange(BATCH), weight=torch.ones(1, 5))
    with mixup.using(plan), pytest.raises(ValueError, match="weights of 1 axes"):
        model(x)


def test_tokens_of_another_size_than_the_inspected():
    class Any(Tokens):
        def forward(self, x):
            return super().forward(x)

    torch.manual_seed(0)
    model = Any()
    mixup = ManifoldMixup(model, ["block1"], example=model.example(), blend=Cut(), seed=0)
    with pytest.raises(ValueError, match=r"4 × 3"):
        model(torch.randn(BATCH, 3, 8, 12))
    assert mixup.plan.pending


def test_maps_of_every_size_are_cut():
    model = build("maps")
    mixup = ManifoldMixup(model, ["conv1"], example=example(model), blend=Cut(), seed=0)
    for sides in ((9, 8), (5, 4), (12, 20)):
        model(torch.randn(BATCH, 2, *sides))
        assert mixup.plan.weight.shape == (1, *sides)


def test_the_wrong_share_of_the_label_would_be_seen():
    """This shows that the tests above can fail."""
    model = build("maps")
    x = example(model)
    mixup = attach(model, ["conv1"], "cut", x)
    model(x)
    plan = mixup.plan
    other = MixPlan(plan.layer, plan.lam, plan.perm)
    assert not torch.allclose(
        MixedTarget(TARGET, plan).soft(CLASSES), MixedTarget(TARGET, other).soft(CLASSES)
    )
    assert isinstance(model, Maps)
