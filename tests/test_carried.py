"""Cut sets: what crosses a depth besides a layer's output is mixed too, once, by the same plan."""

import copy

import pytest
import torch
from torch import nn

from carrying import CASES, MODELS, ROWS, UNet, build
from manifold_mixup import ManifoldMixup, MixPlan, find_layers, mix
from manifold_mixup._structure.biases import Biases
from manifold_mixup._structure.recorded import Node

PERM = torch.tensor([3, 5, 1, 0, 2, 4])
LAMS = {"one λ": torch.tensor(0.3), "λ per example": torch.linspace(0.1, 0.9, ROWS)}
TARGET = torch.arange(ROWS) % 3
PLAIN = nn.CrossEntropyLoss()


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def compare(model, attached, args, plan, *, oracle=None):
    """Compare output and gradients under a plan with those of the pass by hand."""
    oracle = oracle or copy.deepcopy(model)
    expected = oracle.by_hand(plan, *args)
    weights = torch.linspace(1, 2, expected.numel()).sin().view_as(expected)
    (expected * weights).sum().backward()
    with attached.using(plan):
        output = model(*args)
        attached.target(None, output)
        (output * weights).sum().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(model), gradients(oracle))


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_outputs_and_gradients_are_those_of_the_pass_by_hand(name, layer):
    model, args = build(name), MODELS[name].example()
    mixup = ManifoldMixup(model, [layer], example=args)
    for lam in LAMS.values():
        model.zero_grad()
        compare(model, mixup, args, MixPlan(layer, lam, PERM), oracle=build(name))


@pytest.mark.parametrize("name", MODELS)
def test_an_example_mixed_with_its_exact_copy_is_itself(name):
    model = build(name).eval()
    half, args = ROWS // 2, MODELS[name].example()
    mixup = ManifoldMixup(model, model.layers, example=args)
    args = tuple(torch.cat([arg[:half], arg[:half]]) for arg in args)
    plain = model(*args)
    for layer in model.layers:
        with mixup.using(MixPlan(layer, torch.tensor(0.5), torch.arange(ROWS).roll(half))):
            torch.testing.assert_close(model(*args), plain)


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_is_a_cut_and_proven(name):
    model, args = build(name), MODELS[name].example()
    table = find_layers(model, *args)
    rows = {row.name: row for row in table.rows} | {f"input:{r.name}": r for r in table.inputs}
    rows["input"] = table.inputs[0]
    assert all(rows[layer].cut for layer in model.layers)
    assert any(rows[layer].carries for layer in model.layers)
    assert ManifoldMixup(model, model.layers).verify(*args).ok


@pytest.mark.parametrize("name", MODELS)
def test_without_an_example_the_first_batch_finds_what_is_carried(name):
    model, args = build(name), MODELS[name].example()
    layer = model.layers[1]
    mixup, oracle = ManifoldMixup(model, [layer], seed=0), build(name)
    output = model(*args)
    torch.testing.assert_close(output, oracle.by_hand(mixup.plan, *args))
    mixup.target(None, output)
    mixup.remove()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    torch.testing.assert_close(model(*args), oracle(*args))


def test_what_verify_proves_is_what_trains_without_a_check():
    model, args = build("UNet"), UNet.example()
    mixup = ManifoldMixup(model, ["bottom"], check=False)
    assert mixup.verify(*args).ok
    compare(model, mixup, args, MixPlan("bottom", LAMS["one λ"], PERM), oracle=build("UNet"))


def test_a_row_says_what_it_carries_and_who_receives_it():
    table = find_layers(build("Conditional"), *MODELS["Conditional"].example())
    row = next(row for row in table if row.name == "blocks.0")
    assert [(c.layer, c.path, c.output) for c in row.carries] == [
        ("blocks.1", "1.condition", False),
        ("blocks.2", "1.condition", False),
    ]
    (inputs,) = [row for row in table.inputs if row.name == "x"]
    assert {(c.layer, c.source, c.output) for c in inputs.carries} == {
        ("step", "", False),
        ("kind", "kind", True),
    }
    assert "with a value of the model in 'blocks.1', a value of the model in 'blocks.2'" in str(
        table
    )


def test_a_module_that_also_runs_before_the_layer_is_mixed_after_it_alone():
    model = build("EncoderDecoder")
    rows = {row.name: row for row in find_layers(model, *model.example())}
    assert [c.layer for c in rows["encoder"].carries if c.early] == ["embedding"]


# Compiling takes seconds: one layer of some models, which together reach all hooks.
SOME = {
    ("UNet", "bottom"),  # two skips, by position and by name
    ("Conditional", "input:x"),  # another input, and the output of an embedding
    ("EncoderDecoder", "encoder"),  # a module that also runs before the layer
    ("Normalised", "body.blocks.0"),  # read by the code of the model
}
COMPILED = pytest.mark.parametrize(
    ("name", "layer"),
    [
        pytest.param(name, layer, marks=() if (name, layer) in SOME else pytest.mark.thorough)
        for name, layer in CASES
    ],
)


@pytest.mark.usefixtures("fresh_compiler")
@COMPILED
def test_compiled_in_one_graph(name, layer):
    model, args = build(name), MODELS[name].example()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, [layer], example=args)
    plan, oracle = MixPlan(layer, LAMS["one λ"], PERM), build(name)
    expected = oracle.by_hand(plan, *args)
    expected.square().sum().backward()
    with mixup.using(plan):
        output = compiled(*args)
        mixup.target(None, output)
        output.square().sum().backward()
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(gradients(model), gradients(oracle))
    compiled.eval()
    torch.testing.assert_close(compiled(*args), oracle(*args))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
@COMPILED
def test_where_all_modules_but_the_layer_are_compiled(name, layer):
    """Compiled modules know whether the layer, which is not compiled, was mixed already."""
    model, args = build(name), MODELS[name].example()
    mixup = ManifoldMixup(model, [layer], example=args)
    for child, module in model.named_children():
        if layer.split(".")[0] != child and type(module).forward is not nn.Module.forward:
            module.compile(backend="eager")
    compare(model, mixup, args, MixPlan(layer, LAMS["one λ"], PERM), oracle=build(name))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("layer", ["enc1", "enc2", "bottom", "up2"])
def test_recomputed_by_a_checkpoint(layer, reentrant):
    model, args = build("UNet"), UNet.example()
    model.checkpointed = reentrant
    mixup = ManifoldMixup(model, [layer], example=args)
    compare(model, mixup, args, MixPlan(layer, LAMS["one λ"], PERM), oracle=build("UNet"))


def test_in_mixed_precision_it_is_computed_exactly_and_keeps_its_dtype():
    model, args = build("UNet"), UNet.example()
    mixup = ManifoldMixup(model, ["bottom"], example=args)
    seen = []
    model.up1.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["skip"]), with_kwargs=True
    )
    plan = MixPlan("bottom", LAMS["one λ"], PERM)
    with torch.autocast("cpu", dtype=torch.bfloat16), mixup.using(plan):
        model(*args)
        skip = model.enc1(args[0])
    assert seen[-1].dtype == torch.bfloat16
    torch.testing.assert_close(seen[-1], mix(skip, plan), rtol=0, atol=0)


def test_a_tensor_that_several_modules_receive_is_mixed_once():
    model, args = build("Conditional"), MODELS["Conditional"].example()
    seen = []
    for block in model.blocks:
        block.scale.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    mixup = ManifoldMixup(model, ["stem"], example=args)
    seen.clear()
    with mixup.using(MixPlan("stem", LAMS["one λ"], PERM)):
        model(*args)
    assert seen[0] is seen[1] is seen[2]
    assert not mixup._attachment.passes.latest.carried  # kept while the pass runs


# What cannot be mixed is refused, with its name


class Wrapped(nn.Module):
    """Compute by a function of the modules."""

    def __init__(self, forward, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleDict(parts)
        self.function = forward

    def forward(self, *args):
        return self.function(self.parts, *args)


class Join(nn.Module):
    def __init__(self, *, in_place=False):
        super().__init__()
        self.linear, self.in_place = nn.Linear(4, 4), in_place

    def forward(self, h, skip):
        if self.in_place:
            skip.mul_(2.0)
        return self.linear(h + skip)


class Pick(nn.Module):
    def forward(self, h, index):
        return h * index[:, None].to(h.dtype)


def linears(*names):
    return {name: nn.Linear(4, 4) for name in names}


def refuse(model, layer, args, *fragments):
    with pytest.raises(ValueError, match=f"layer '{layer}'") as error:
        ManifoldMixup(model, [layer], example=args)
    for fragment in fragments:
        assert fragment in str(error.value)


def test_what_only_code_crosses_is_refused_with_the_module_in_whose_code_it_is_read():
    model = Wrapped(lambda m, x: m["c"](m["b"](h := m["a"](x)) * h), **linears("a", "b", "c"))
    seen = (
        "the code of the model after 'parts.b' and before 'parts.c' reads 'parts.a' of shape (4, 4)"
    )
    way_out = "it would be mixed too if a module received it as an argument"
    refuse(model, "parts.b", torch.randn(4, 4), seen, way_out, "'parts.a', 'parts.c'")


class Block(nn.Module):
    """Two residual paths; the code of the block itself computes what the second one carries."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        x = x + self.a(x)
        return x + self.b(x)


def test_a_sum_inside_a_module_is_not_called_by_the_name_of_the_module():
    model = nn.Sequential(nn.Linear(4, 4), Block())
    seen = "after '1.b' reads a value computed inside '1', of shape (4, 4); it would be mixed too"
    refuse(model, "1.b", torch.randn(4, 4), seen)


def test_a_value_that_no_module_returned_is_named_without_a_shape():
    class Scaled(nn.Linear):
        def forward(self, x):
            self.scale = x.std(1, keepdim=True)
            return super().forward(x / self.scale)

    seen = "reads a value computed inside 'parts.a'; it would be mixed too"
    model = Wrapped(
        lambda m, x: m["b"](m["a"](x)) * m["a"].scale, a=Scaled(4, 4), b=nn.Linear(4, 4)
    )
    refuse(model, "parts.a", torch.randn(4, 4), f"{seen} if 'parts.a' returned it")


class Forecaster(nn.Module):
    """Series go to forecasts in their own units, by way of a spread that the norm keeps or not."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.body, self.head = norm, nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        scaled = self.norm(x)
        x, spread = scaled if isinstance(scaled, tuple) else (scaled, None)
        return self.norm(self.head(self.body(x)), *([] if spread is None else [spread]))


class Keeping(nn.Module):
    """Standardises series, and undoes it when it runs again, by the spread that it kept."""

    def __init__(self):
        super().__init__()
        self.spread = None

    def forward(self, x):
        if self.spread is None:
            self.spread = x.std(1, keepdim=True)
            return x / self.spread
        spread, self.spread = self.spread, None
        return x * spread


class Returning(nn.Module):
    """Does the same with a spread that it returns and is given again."""

    def forward(self, x, spread=None):
        if spread is None:
            spread = x.std(1, keepdim=True)
            return x / spread, spread
        return x * spread


def test_what_a_module_keeps_for_its_next_run_is_refused_with_a_way_out_that_works():
    x = torch.randn(len(PERM), 4)
    seen = "the code of 'norm' reads a value computed inside 'norm'; it would be mixed too if "
    refuse(Forecaster(Keeping()), "body", x, f"{seen}'norm' returned it, and a module received it")
    model = Forecaster(Returning())
    mixup, plan = (
        ManifoldMixup(model, ["body"], example=x),
        MixPlan("body", torch.tensor(0.3), PERM),
    )
    with mixup.using(plan):
        made = model(x)
    scaled, spread = model.norm(x)
    h, spread = (0.3 * part + 0.7 * part[PERM] for part in (model.body(scaled), spread))
    torch.testing.assert_close(made, model.head(h) * spread)


def test_a_tensor_that_a_later_module_overwrites_for_others_is_refused():
    def forward(m, x):
        h = m["a"](x)
        out = m["join"](m["b"](h), h)
        return m["c"](out) + m["d"](h)

    parts = linears("a", "b", "c", "d") | {"join": Join(in_place=True)}
    model = Wrapped(forward, **parts)
    seen = (
        "'parts.a' of shape (4, 4) is given to 'parts.join' after it, which writes into it in place"
    )
    refuse(model, "parts.b", torch.randn(4, 4), seen, "copy it there first")


def test_integers_that_cross_are_refused():
    def forward(m, x):
        h = m["a"](x)
        index = (h.sum(1) > 0).long()
        return m["pick"](m["b"](h), index)

    model = Wrapped(forward, **linears("a", "b"), pick=Pick())
    seen = "of shape (4,) is given to 'parts.pick' after it, as integers"
    way_out = "pass floating point numbers, if their mean has a meaning, or mix after that module"
    refuse(model, "parts.b", torch.randn(4, 4), seen, way_out, "'parts.pick'")


def test_a_mask_made_of_integers_is_no_state():
    """Interpolated, it would be the intersection of both masks at every λ between 0 and 1."""

    def forward(m, x, lengths):
        h = m["a"](x)
        bias = (torch.arange(4) >= lengths[:, None]).to(h.dtype) * -1e9
        return m["join"](m["b"](h).softmax(1), bias).softmax(1)

    model = Wrapped(forward, join=Join(), **linears("a", "b"))
    refuse(
        model,
        "parts.b",
        (torch.randn(4, 4), torch.tensor([1, 2, 3, 4])),
        "side input",
        "still read",
    )


def test_a_long_loop_is_searched_once_for_biases():
    class Counting(list):
        reads = 0

        def __getitem__(self, index):
            Counting.reads += 1
            return super().__getitem__(index)

    steps = 300  # each value is computed from the two before it
    nodes = Counting(Node((max(n - 2, 0), max(n - 1, 0)), operator="mul") for n in range(steps))
    readers = [[n for n in (number + 1, number + 2) if n < steps] for number in range(steps)]
    biases = Biases(nodes, readers, [False] * steps)
    assert not any(biases.receive(n, reader) for n, after in enumerate(readers) for reader in after)
    assert Counting.reads < 10 * steps


class Attention(nn.Module):
    """Attention with a bias of the scores for each example."""

    def __init__(self, way):
        super().__init__()
        self.way, self.project = way, nn.Linear(4, 4)

    def forward(self, h, bias):
        if self.way == "fused":
            return nn.functional.scaled_dot_product_attention(h, h, h, attn_mask=bias)
        if self.way == "baddbmm":
            return torch.baddbmm(bias, h, h.mT).softmax(-1) @ h
        if self.way == "gate":  # a product with weights makes a state of it
            return (h @ h.mT / 2 + self.project(bias)).softmax(-1) @ h
        return (h @ h.mT / 2 + bias).softmax(-1) @ h


@pytest.mark.parametrize("way", ["operators", "fused", "baddbmm"])
def test_a_bias_of_attention_is_no_state(way):
    model = Wrapped(lambda m, x, bias: m["b"](m["attend"](m["a"](x), bias)), **linears("a", "b"))
    model.parts["attend"] = Attention(way)
    args = torch.randn(4, 4, 4), torch.randn(4, 4, 4)
    seen = "'args.1' of shape (4, 4, 4) is added to attention scores in 'parts.attend'"
    refuse(model, "parts.a", args, seen, "mix after that attention")


def test_a_bias_of_attention_that_weights_multiply_is_a_state():
    model = Wrapped(lambda m, x, bias: m["b"](m["attend"](m["a"](x), bias)), **linears("a", "b"))
    model.parts["attend"] = Attention("gate")
    args = torch.randn(4, 4, 4), torch.randn(4, 4, 4)
    assert ManifoldMixup(model, ["parts.a"], example=args).verify(*args).ok


def test_a_module_that_runs_again_with_another_state_is_refused():
    def forward(m, x):
        h = m["a"](x)
        h = m["join"](m["b"](h), h)
        return m["join"](m["c"](h), h)

    model = Wrapped(forward, join=Join(), **linears("a", "b", "c"))
    refuse(model, "parts.b", torch.randn(4, 4), "runs again with another state in its place")


def test_a_model_whose_numbers_contradict_is_refused(monkeypatch):
    """What is received is used by another way than the argument: only the numbers show it."""

    class Cheat(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.join = nn.Linear(4, 4), nn.Linear(4, 4), Join()

        def forward(self, x):
            h = self.a(x)
            self.join.kept = h
            return self.join(self.b(h), h)

    def forward(self, h, skip):
        return self.linear(h + skip + self.kept)

    monkeypatch.setattr(Join, "forward", forward)
    with pytest.raises(ValueError, match=r"not every layer could be proven.*'a' in 'join'"):
        ManifoldMixup(Cheat(), ["b"], example=torch.randn(4, 4))


def test_a_carried_tensor_without_rows_is_refused_in_training():
    model, args = build("Conditional"), MODELS["Conditional"].example()
    mixup = ManifoldMixup(model, ["stem"], example=args, seed=0)
    model.kind.register_forward_hook(lambda *_: torch.zeros(1, 6))
    model.step.register_forward_hook(lambda *_: torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"'blocks\.0' receives it, in 6 examples, but it has"):
        model(*args)
    assert mixup.layers == ("stem",)
