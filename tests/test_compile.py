"""torch.compile: the four orders, the number of graphs, and no silent failures."""

import warnings

import pytest
import torch
import torch._dynamo
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan, sample_plan
from zoo import (
    BATCH,
    CLASSES,
    TARGET,
    ZOO,
    Residual,
    build,
    example,
    gradients,
    hand_split,
    layers_of,
    logits,
    plain_mix,
)

PLAIN = nn.CrossEntropyLoss()
# torch.nn.LSTM with hooks and reentrant checkpoints break graphs even without mixing.
BREAKS = ["lstm", "reentrant"]
if torch.__version__ < (2, 12):
    BREAKS.append("structured")  # older compilers do not trace copy.copy of dataclasses
WHOLE_GRAPH = [name for name in ZOO if name not in BREAKS]


# The compiler reads `.grad` of tensors that cross a graph break. Users do not see the warning, but
# here warnings are errors.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.usefixtures("fresh_compiler"),
]


class Counting:
    """A backend that runs the captured graphs eagerly, and counts them."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def compile_then_attach(model, layers, backend, **options):
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    return compiled, ManifoldMixup(compiled, layers, **options)


def attach_then_compile(model, layers, backend, **options):
    mixup = ManifoldMixup(model, layers, **options)
    return torch.compile(model, backend=backend), mixup


def compile_in_place(model, layers, backend, **options):
    model.compile(backend=backend)
    return model, ManifoldMixup(model, layers, **options)


def attach_then_compile_in_place(model, layers, backend, **options):
    mixup = ManifoldMixup(model, layers, **options)
    model.compile(backend=backend)
    return model, mixup


IN_PLACE = (compile_in_place, attach_then_compile_in_place)
ORDERS = pytest.mark.parametrize("order", [compile_then_attach, attach_then_compile, *IN_PLACE])
THOROUGH = pytest.mark.thorough


@pytest.mark.parametrize(
    ("order", "backend", "name"),
    [
        *[
            pytest.param(compile_then_attach, "aot_eager", name, marks=marks)
            for name in WHOLE_GRAPH
            for marks in [() if name in ("conv", "structured") else THOROUGH]
        ],
        # The backend "eager" does not recompute a batch norm, even without mixing.
        *[
            pytest.param(attach_then_compile, "eager", name, marks=marks)
            for name in WHOLE_GRAPH
            for marks in [() if name == "text" else THOROUGH]
            if name != "checkpoint"
        ],
        pytest.param(attach_then_compile, "aot_eager", "checkpoint", marks=THOROUGH),
        (compile_in_place, "eager", "mlp"),
        (attach_then_compile_in_place, "eager", "residual"),
        *[pytest.param(order, "aot_eager", "residual", marks=THOROUGH) for order in IN_PLACE],
    ],
)
def test_outputs_and_gradients_are_the_eager_ones(order, backend, name):
    model, oracle = build(name), build(name)
    with torch._dynamo.config.patch(recompile_limit=32):
        compiled, mixup = order(model, layers_of(name), backend, seed=0)
        criterion, x = mixup.wrap(PLAIN), example(model)
        drawn = set()
        for _ in range(8):
            output = compiled(x)
            criterion(logits(output), TARGET).backward()
            expected = logits(hand_split(oracle, x, mixup.plan))
            MixedTarget(TARGET, mixup.plan).loss(PLAIN, expected).backward()
            torch.testing.assert_close(logits(output), expected)
            drawn.add(mixup.plan.layer)
        assert len(drawn) > 1
    torch.testing.assert_close(gradients(model), gradients(oracle))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "steps"),
    [
        # In test_mix.py `mix` alone is compiled so, and in test_ways.py the other ways in a model.
        pytest.param("mlp", ["fc1"], 2, marks=THOROUGH),
        pytest.param("conv", ["conv1", "conv2"], 6, marks=THOROUGH),
    ],
)
def test_the_default_backend_and_a_lam_per_sample(name, layers, steps):
    model, oracle = build(name), build(name)
    compiled = torch.compile(model, fullgraph=True)
    mixup = ManifoldMixup(compiled, layers, per_sample=True, seed=0)
    criterion, x = mixup.wrap(PLAIN), example(model)
    for _ in range(steps):
        criterion(compiled(x), TARGET).backward()
        expected = hand_split(oracle, x, mixup.plan)
        nn.functional.cross_entropy(
            expected, MixedTarget(TARGET, mixup.plan).soft(CLASSES)
        ).backward()
    torch.testing.assert_close(gradients(model), gradients(oracle))


class Deep(nn.Module):
    def __init__(self, depth=5):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x).tanh()
        return x


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("order", "count"),
    [
        (compile_then_attach, 1),
        (attach_then_compile, 2),
        (compile_in_place, 2),
        pytest.param(compile_then_attach, 8, marks=THOROUGH),
        pytest.param(attach_then_compile, 4, marks=THOROUGH),
        pytest.param(compile_in_place, 4, marks=THOROUGH),
    ],
)
def test_graphs_are_counted_over_epochs_with_a_partial_batch_and_evaluation(order, count):
    layers = [f"blocks.{place}" for place in range(count)]
    counter, model = Counting(), Deep(count + 1)
    limit = max(torch._dynamo.config.recompile_limit, 2 * count + 1)  # as the warning recommends
    with torch._dynamo.config.patch(recompile_limit=limit, fail_on_recompile_limit_hit=True):
        compiled, mixup = order(model, layers, counter, seed=0)
        criterion = mixup.wrap(PLAIN)

        def epoch():
            compiled.train()
            for rows in [8] * 3 * count + [5]:
                output = compiled(torch.randn(rows, 4))
                criterion(output, torch.zeros(rows, dtype=torch.long)).backward()
            compiled.eval()
            with torch.no_grad():
                compiled(torch.randn(8, 4))

        for _ in range(5):
            epoch()
    assert count < counter.graphs <= 2 * count + 1
    assert mixup.skipped == 0


def test_batches_left_unmixed_take_the_graphs_that_were_warned_of():
    """All graphs occur, before and after a partial batch."""
    counter, layers = Counting(), [f"blocks.{place}" for place in range(3)]
    compiled = torch.compile(Deep(), backend=counter, fullgraph=True)
    with pytest.warns(UserWarning, match=r"3 eligible layers and batches.*recompile_limit = 9 or"):
        mixup = ManifoldMixup(compiled, layers, p=0.5, seed=0)
    criterion = mixup.wrap(PLAIN)
    with torch._dynamo.config.patch(recompile_limit=9):
        for rows in [8] * 30 + [5] * 30:
            criterion(compiled(torch.randn(rows, 4)), torch.zeros(rows).long()).backward()
        compiled.eval()
        with torch.no_grad():
            compiled(torch.randn(8, 4))
    assert counter.graphs == 9


class Bare(nn.Sequential):
    """A model with PyTorch's forward."""


class Own(nn.Sequential):
    """A model with its own forward."""

    def forward(self, x):
        for block in self:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        pytest.param(kind, order, marks=() if order in orders else THOROUGH)
        for kind, orders in {
            nn.Sequential: (attach_then_compile, compile_in_place),
            Bare: (compile_then_attach, attach_then_compile, *IN_PLACE),
            Own: (attach_then_compile_in_place,),
        }.items()
        for order in (compile_then_attach, attach_then_compile, *IN_PLACE)
    ],
)
def test_a_model_without_a_forward_of_its_own_is_compiled_or_warned_of(order, kind):
    counter = Counting()
    model = kind(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
    untraced = (Bare,) if torch.__version__ >= (2, 12) else (Bare, nn.Sequential)
    lost = kind in untraced and order is not compile_then_attach
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        compiled, mixup = order(model, ["0", "1"], counter, seed=0)
        criterion = mixup.wrap(PLAIN)
        for _ in range(6):
            criterion(compiled(torch.randn(8, 4)), torch.zeros(8).long()).backward()
    assert (counter.graphs == 0) == lost
    texts = [str(one.message) for one in said if "no forward of its own" in str(one.message)]
    assert len(texts) == lost
    assert all(text.startswith(kind.__name__) for text in texts)


def test_attaching_warns_when_the_compiler_would_run_out_of_graphs():
    compiled = torch.compile(Deep(), backend="eager")
    layers = [f"blocks.{place}" for place in range(4)]
    with pytest.warns(UserWarning, match=r"4 eligible layers.*recompile_limit = 9 or more") as seen:
        ManifoldMixup(compiled, layers)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="recompile_limit = 9 or more"):
        ManifoldMixup(compiled, layers[:3], alpha=lambda step: None, replace=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ManifoldMixup(compiled, layers[:3], replace=True)
        ManifoldMixup(Deep(), layers)  # not compiled


@pytest.mark.parametrize("in_place", [False, True])
def test_blocks_compiled_one_by_one_make_graphs_that_do_not_grow_with_the_pairs_of_layers(in_place):
    counter, model = Counting(), Chain()
    for place, block in enumerate(model.blocks):
        if in_place:
            block.compile(backend=counter)
        else:
            model.blocks[place] = torch.compile(block, backend=counter)
    mixup = ManifoldMixup(model, ["blocks.0", "blocks.1", "blocks.2"], seed=0)
    criterion = mixup.wrap(PLAIN)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for rows in [8] * 20 + [5] * 20:
            criterion(model(torch.randn(rows, 4)), torch.zeros(rows).long()).backward()
        model.eval()
        with torch.no_grad():
            model(torch.randn(8, 4))
    assert counter.graphs <= 2 * 3 + 1


def test_attach_then_compile_with_fullgraph_says_to_attach_to_the_compiled_model():
    model = build("mlp")
    ManifoldMixup(model, ["fc1"])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="attach to the compiled model"):
        compiled(example(model))


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def require_mixing(model, mixup, oracle, steps=24):
    """Train some steps; each must equal the hand-split one, and every layer must be drawn."""
    x, met = example(oracle), set()
    for _ in range(steps):
        loss = mixup.wrap(PLAIN)(logits(model(x)), TARGET)
        loss.backward()
        expected = MixedTarget(TARGET, mixup.plan).loss(PLAIN, hand_split(oracle, x, mixup.plan))
        torch.testing.assert_close(loss, expected)
        met.add(mixup.plan.layer)
    assert met == set(mixup.layers)
    assert mixup.skipped == 0


@pytest.mark.parametrize("how", ["whole", "model inside", "in place", "layer"])
def test_a_layer_that_compiled_code_does_not_run_is_an_error(how):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.used(x)

    core = Idle()
    model = whole(core) if how in ("whole", "model inside") else core
    if how in ("in place", "layer"):
        in_place(core if how == "in place" else core.idle)
    mixup = ManifoldMixup(core if how == "model inside" else model, ["idle"], check=False, seed=0)
    with pytest.raises(RuntimeError, match="compiled code does not contain the mix"):
        model(torch.ones(4, 4))
    mixup.remove()
    plain = Idle()
    ManifoldMixup(plain, ["idle"], check=False, seed=0)
    with pytest.raises(RuntimeError, match="it has never run"):
        plain(torch.ones(4, 4))


# Compiled in place, it is the model inside.
@pytest.mark.parametrize(("compiled", "inner"), [(whole, False), (whole, True), (in_place, False)])
def test_code_compiled_before_attaching_is_not_taken_for_the_mixed_one(compiled, inner):
    core = build("mlp")
    model = compiled(core)
    model(example(core)).sum().backward()
    mixup = ManifoldMixup(core if inner else model, ["fc1", "fc2"], seed=0)
    require_mixing(model, mixup, build("mlp"))


@pytest.mark.parametrize(
    ("name", "compiled"),
    [
        ("residual", whole),
        ("mlp", in_place),
        pytest.param("residual", in_place, marks=THOROUGH),
        pytest.param("text", whole, marks=THOROUGH),
        pytest.param("text", in_place, marks=THOROUGH),
    ],
)
def test_a_plain_model_of_the_class_compiled_beside_it_takes_nothing_away(compiled, name):
    def use(plain):
        PLAIN(logits(plain(example(build(name)))), TARGET).backward()

    before, after = compiled(build(name)), compiled(build(name))
    use(before)
    model, layers = compiled(build(name)), [name for name in layers_of(name) if name != "input"]
    with torch._dynamo.config.patch(recompile_limit=12, fail_on_recompile_limit_hit=True):
        mixup = ManifoldMixup(model, layers, seed=0)
        for plain in (before, after, before):
            require_mixing(model, mixup, build(name))
            use(plain)
        require_mixing(model, mixup, build(name))


def test_blocks_compiled_by_themselves_beside_plain_ones():
    def compiled_blocks():
        model = build("text")
        for block in model.blocks:
            block.compile(backend="eager")
        return model

    plain, model = compiled_blocks(), compiled_blocks()
    mixup = ManifoldMixup(model, ["blocks.0", "blocks.1"], seed=0)
    for _ in range(3):
        PLAIN(plain(example(plain)), TARGET).backward()
        require_mixing(model, mixup, build("text"))


def test_hooks_that_compiled_code_ignores_show_up_at_the_criterion():
    model = build("mlp")
    inner = torch.compile(model.forward, backend="eager")
    mixup = ManifoldMixup(model, ["input"])
    with pytest.raises(RuntimeError, match=r"no forward pass.*attach to what you call"):
        mixup.wrap(PLAIN)(inner(example(model)), TARGET)


def test_model_and_criterion_in_one_compiled_function():
    model, oracle = build("mlp"), build("mlp")
    mixup = ManifoldMixup(model, ["input", "fc1"], seed=0)
    criterion, x = mixup.wrap(PLAIN), example(model)

    def step(x, y):
        return criterion(model(x), y)

    loose = torch.compile(step, backend="aot_eager")
    for _ in range(4):
        loss = loose(x, TARGET)
        loss.backward()
        expected = hand_split(oracle, x, mixup.plan)
        torch.testing.assert_close(loss, MixedTarget(TARGET, mixup.plan).loss(PLAIN, expected))
    with pytest.raises(Exception, match="Keep the criterion out of the compiled function"):
        torch.compile(step, backend="eager", fullgraph=True)(x, TARGET)


@pytest.mark.parametrize("order", [compile_then_attach, attach_then_compile])
def test_names_are_free_of_the_wrapper(order):
    _, mixup = order(Residual(), ["layer1", "layer1.0"], "eager")
    assert mixup.layers == ("layer1", "layer1.0")


def test_attached_to_the_wrapper_or_to_the_model_inside_is_one_attachment():
    model = build("mlp")
    compiled = torch.compile(model, backend="eager")
    ManifoldMixup(compiled, ["fc1"])
    with pytest.raises(RuntimeError, match=r"already has ManifoldMixup\(.* attached"):
        ManifoldMixup(model, ["fc2"])


def test_evaluation_and_removal_of_a_compiled_model():
    model, oracle = build("mlp"), build("mlp")
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, ["input", "fc1"], seed=0)
    x = example(model)
    mixup.wrap(PLAIN)(compiled(x), TARGET).backward()
    compiled.eval()
    torch.testing.assert_close(compiled(x), oracle(x))
    compiled.train()
    mixup.remove()
    torch.testing.assert_close(compiled(x), oracle(x))


@pytest.mark.filterwarnings("ignore:4 eligible layers")
def test_a_compiled_block_in_an_eager_model():
    model, oracle = build("residual"), build("residual")
    model.layer1 = torch.compile(model.layer1, backend="eager")
    mixup = ManifoldMixup(model, ["stem", "layer1.0", "layer1", "layer2"], seed=0)
    criterion, x = mixup.wrap(PLAIN), example(model)
    drawn = set()
    for _ in range(24):
        criterion(model(x), TARGET).backward()
        drawn.add(mixup.plan.layer)
        expected = hand_split(oracle, x, mixup.plan)
        MixedTarget(TARGET, mixup.plan).loss(PLAIN, expected).backward()
    assert drawn == {"stem", "layer1.0", "layer1", "layer2"}
    for (_, ours), (_, theirs) in zip(
        model.named_parameters(), oracle.named_parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad)


class Dropping(nn.Module):
    """Layers that run once, never, or twice, decided in Python."""

    def __init__(self):
        super().__init__()
        self.stem, self.middle, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.times = 1

    def forward(self, x):
        h = self.stem(x)
        for _ in range(self.times):
            h = self.middle(h)
        return self.head(h)


@ORDERS
def test_a_layer_skipped_in_compiled_code_gives_plain_targets(order):
    model, x = Dropping(), torch.randn(BATCH, 5)
    compiled, mixup = order(model, ["middle"], "eager", seed=0)
    criterion = mixup.wrap(PLAIN)
    for times in (1, 0, 1, 0):
        model.times = times
        output = compiled(x)
        assert (mixup.plan is None) == (times == 0)
        loss = criterion(output, TARGET)
        torch.testing.assert_close(loss, MixedTarget(TARGET, mixup.plan).loss(PLAIN, output))
        loss.backward()
    assert mixup.skipped == 2


@pytest.mark.parametrize(
    "order",
    [
        compile_then_attach,
        attach_then_compile_in_place,
        *[pytest.param(each, marks=THOROUGH) for each in (attach_then_compile, compile_in_place)],
    ],
)
def test_a_layer_run_twice_in_compiled_code_raises(order):
    model, x = Dropping(), torch.randn(BATCH, 5)
    compiled, mixup = order(model, ["middle"], "eager", seed=0)
    mixup.wrap(PLAIN)(compiled(x), TARGET).backward()
    model.times = 2
    with pytest.raises(RuntimeError, match="'middle' ran 2 times"):
        compiled(x)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_plan_that_is_overwritten_in_place_counts_at_the_next_pass(compiled):
    """A CUDA graph replays with the contents of its buffers, so no number may be kept elsewhere."""
    model, oracle, x = build("conv"), build("conv"), example(build("conv"))
    backend = Counting()
    call = torch.compile(model, backend=backend, fullgraph=True) if compiled else model
    layer = layers_of("conv")[-1]
    mixup = ManifoldMixup(call, (layer,), seed=0)
    criterion = mixup.wrap(PLAIN)
    plan = MixPlan(layer, torch.tensor(1.0), torch.arange(BATCH))
    call(x)  # the first batch is also checked
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        drawn = sample_plan(BATCH, layers=[layer], alpha=1.0, generator=generator)
        plan.lam.copy_(drawn.lam)
        plan.perm.copy_(drawn.perm)
        with mixup.using(plan):
            output = call(x)
        loss = criterion(output, TARGET)
        if seed == 0:
            graphs = backend.graphs
        expected = hand_split(oracle, x, drawn)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(loss, MixedTarget(TARGET, drawn).loss(PLAIN, expected))
    assert backend.graphs == graphs


@pytest.mark.skipif(
    not hasattr(torch.compiler, "nested_compile_region"), reason="this PyTorch has no regions"
)
def test_blocks_that_are_one_compiled_region_keep_their_own_parameters(fresh_compiler):
    class Block(nn.Linear):
        @torch.compiler.nested_compile_region
        def forward(self, x):
            return x + super().forward(x).tanh()

    torch.manual_seed(0)
    model, x, y = nn.Sequential(*(Block(3, 3) for _ in range(4))), torch.randn(6, 3), TARGET[:6] % 3
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, ["1"], seed=0)
    loss = mixup.wrap(PLAIN)(compiled(x), y)
    loss.backward()
    found = gradients(model)

    plan, h = mixup.plan, x
    model.zero_grad()
    for name, block in model.named_children():
        h = h + nn.functional.linear(h, block.weight, block.bias).tanh()
        h = plain_mix(h, plan) if name == "1" else h
    by_hand = MixedTarget(y, plan).loss(PLAIN, h)
    by_hand.backward()
    torch.testing.assert_close(loss, by_hand)
    torch.testing.assert_close(found, gradients(model))


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("layer", ["input", "0", "1"])
def test_batches_of_many_sizes_share_a_graph(fresh_compiler, layer, marked):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, [layer], seed=0)
    criterion = mixup.wrap(PLAIN)
    for size in (8, 5, 7, 6, 9):
        x, y = torch.randn(size, 4), torch.arange(size) % 3
        if marked:
            torch._dynamo.mark_dynamic(x, 0)
        loss = criterion(compiled(x), y)
        loss.backward()
        h = plain_mix(x, mixup.plan) if layer == "input" else x
        for name, part in model.named_children():
            h = plain_mix(part(h), mixup.plan) if name == layer else part(h)
        torch.testing.assert_close(loss, MixedTarget(y, mixup.plan).loss(PLAIN, h))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == (1 if marked else 2)  # static, until the size changes


@pytest.mark.skipif(torch.__version__.startswith("2.10."), reason="PyTorch 2.10 compiles it")
def test_a_block_that_is_compiled_in_place_in_one_graph_is_to_be_wrapped(fresh_compiler):
    model = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, CLASSES))
    model[1].compile(backend="eager", fullgraph=True)
    mixup, x = ManifoldMixup(model, ["0"], seed=0), torch.randn(BATCH, 5)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="wrap it instead, before attaching"):
        model(x)
    mixup.remove()
    torch.compiler.reset()

    again = nn.Sequential(model[0], nn.Linear(5, CLASSES))
    again[1] = torch.compile(again[1], backend="eager", fullgraph=True)
    mixup = ManifoldMixup(again, ["0"], seed=0)
    mixup.wrap(PLAIN)(again(x), TARGET).backward()
