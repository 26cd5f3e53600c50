"""Activation checkpointing: a recomputation replays the plan of its own forward pass."""

import copy
import functools
from contextlib import nullcontext

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from manifold_mixup import Cut, Interpolate, ManifoldMixup, MixedTarget, SimilarityKernel
from zoo import TARGET, Residual, build, example, hand_split

PLAIN = nn.CrossEntropyLoss()
LAYERS = ["input", "stem", "layer1.0", "layer1", "layer2"]
# Each takes a graph: before, inside and after a checkpoint.
COMPILED_LAYERS = ["stem", "layer1.0", "layer2"]
THOROUGH = pytest.mark.thorough


pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.usefixtures("fresh_compiler"),
]


def residual(use_reentrant):
    torch.manual_seed(0)
    # No BatchNorm: even without mixing, two compiled passes before a backward pass overwrite
    # what its backward needs.
    return Residual(use_reentrant, norm=nn.LayerNorm)


def inner_blocks(use_reentrant):
    model = residual(use_reentrant)
    model.layer1 = torch.compile(model.layer1, backend="aot_eager")
    model.layer2 = torch.compile(model.layer2, backend="aot_eager")
    return model, model, model


def blocks_in_place(use_reentrant):
    model = residual(use_reentrant)
    model.layer1.compile(backend="aot_eager")
    model.layer2.compile(backend="aot_eager")
    return model, model, model


def parts(use_reentrant):
    model = residual(use_reentrant)
    return model, model, model


def whole_model():
    model = residual(None)
    return model, model, lambda x: checkpoint(model, x, use_reentrant=False)


def nested():
    model = residual(False)
    return model, model, lambda x: checkpoint(model, x, use_reentrant=False)


def compiled_around_checkpoints():
    model = residual(False)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    return model, compiled, compiled


def checkpoint_around_compiled():
    model = residual(None)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    return model, compiled, lambda x: checkpoint(compiled, x, use_reentrant=False)


SETTINGS = {
    "parts": lambda: parts(False),
    "parts, reentrant": lambda: parts(True),
    "compiled blocks": lambda: inner_blocks(False),
    "compiled blocks, reentrant": lambda: inner_blocks(True),
    "blocks compiled in place": lambda: blocks_in_place(False),
    "blocks compiled in place, reentrant": lambda: blocks_in_place(True),
    "whole model": whole_model,
    "nested": nested,
    "compiled around checkpoints": compiled_around_checkpoints,
    "checkpoint around compiled": checkpoint_around_compiled,
}


REPEATED = ("compiled blocks", "blocks compiled in place, reentrant")


@pytest.mark.parametrize(
    "setting",
    [pytest.param(name, marks=THOROUGH if name in REPEATED else ()) for name in SETTINGS],
)
def test_two_forward_passes_before_one_backward_give_the_plain_gradients(setting):
    with torch._dynamo.config.patch(recompile_limit=32):
        model, attached, call = SETTINGS[setting]()
        oracle = residual(None)
        layers = COMPILED_LAYERS if "compiled" in setting else LAYERS
        mixup = ManifoldMixup(attached, layers, alpha=1.0, seed=0)
        criterion = mixup.wrap(PLAIN)
        drawn = set()
        for _ in range(8):
            model.zero_grad()
            oracle.zero_grad()
            outputs, total = [], 0
            for seed in (1, 2):
                x = example(model, seed)
                outputs.append(call(x))
                drawn.add(mixup.plan.layer)
                expected = hand_split(oracle, x, mixup.plan)
                total = total + seed * MixedTarget(TARGET, mixup.plan).loss(PLAIN, expected)
            total.backward()
            (2 * criterion(outputs[1], TARGET) + criterion(outputs[0], TARGET)).backward()
            for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
                torch.testing.assert_close(ours.grad, theirs.grad)
        assert drawn == set(layers)


def test_a_pass_that_was_not_mixed_is_recomputed_unmixed():
    model, oracle = residual(False), residual(None)
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x = example(model)
    with mixup.paused():
        clean = model(x)
    mixed = model(x)
    assert mixup.plan is not None
    PLAIN(clean, TARGET).backward()
    PLAIN(oracle(x), TARGET).backward()
    for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    mixup.wrap(PLAIN)(mixed, TARGET).backward()


def test_a_recomputation_draws_nothing():
    model, _, call = whole_model()
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    mixup.wrap(PLAIN)(call(example(model)), TARGET).backward()
    assert mixup.state_dict()["step"] == 1


def test_a_reentrant_checkpoint_of_the_whole_model_says_what_to_do():
    model = build("residual")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x = example(model).requires_grad_()
    output = checkpoint(model, x, use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        mixup.wrap(PLAIN)(output, TARGET)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        output.sum().backward()


@pytest.mark.parametrize("mode", ["to be mixed", "paused", "no gradients", "eval"])
def test_a_forward_pass_inside_a_backward_pass_must_not_be_mixed(mode):
    model = build("residual")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    criterion, x, seen = mixup.wrap(PLAIN), example(model), []

    def look(grad):
        model.train(mode != "eval")
        quiet = mixup.paused() if mode == "paused" else nullcontext()
        with torch.set_grad_enabled(mode != "no gradients"), quiet:
            seen.append(model(x).detach())

    for _ in range(8):  # draws several layers
        model.train()
        summed = torch.zeros((), requires_grad=True) + 1
        summed.register_hook(look)
        loss = criterion(model(x), TARGET) + summed
        if mode == "to be mixed":
            with pytest.raises(
                RuntimeError, match="forward pass that is being recomputed cannot be identified"
            ):
                loss.backward()
        else:
            loss.backward()
            torch.testing.assert_close(seen.pop(), copy.deepcopy(model)(x).detach())
    assert not seen


@pytest.mark.slow
@pytest.mark.parametrize("use_reentrant", [False, pytest.param(True, marks=THOROUGH)])
def test_a_block_compiled_after_attaching(use_reentrant):
    with torch._dynamo.config.patch(recompile_limit=32):
        model, oracle = residual(use_reentrant), residual(None)
        mixup = ManifoldMixup(model, COMPILED_LAYERS, alpha=1.0, seed=0)
        model.layer1.compile(backend="aot_eager")
        criterion = mixup.wrap(PLAIN)
        for seed in range(8):
            x = example(model, seed)
            criterion(model(x), TARGET).backward()
            expected = hand_split(oracle, x, mixup.plan)
            MixedTarget(TARGET, mixup.plan).loss(PLAIN, expected).backward()
        for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_compiled_step_that_holds_the_backward_pass_and_a_graph_break(use_reentrant):
    """The recomputation is compiled too, frame by frame."""
    model, oracle = residual(use_reentrant), residual(None)
    for block in (model.layer1[0], model.layer1[1], model.layer2):
        block.bn.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    criterion = mixup.wrap(PLAIN)

    @torch.compile(backend="aot_eager")
    def step(x):
        loss = criterion(model(x), TARGET)
        loss.backward()

    drawn = set()
    with torch._dynamo.config.patch(recompile_limit=32):
        for seed in range(12):
            x = example(model, seed)
            step(x)
            drawn.add(mixup.plan.layer)
            expected = hand_split(oracle, x, mixup.plan)
            MixedTarget(TARGET, mixup.plan).loss(PLAIN, expected).backward()
    assert drawn == set(LAYERS)
    for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_checkpoint_around_two_calls_of_the_model_raises():
    model = residual(None)
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    criterion, x = mixup.wrap(PLAIN), example(model)
    first, second = checkpoint(lambda u, v: (model(u), model(v)), x, 2 * x, use_reentrant=False)
    with pytest.raises(RuntimeError, match="several calls of the model"):
        (criterion(first, TARGET) + criterion(second, TARGET)).backward()


def test_one_checkpoint_can_be_recomputed_twice():
    model, _, call = whole_model()
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    loss = mixup.wrap(PLAIN)(call(example(model)), TARGET)
    loss.backward(retain_graph=True)
    once = [parameter.grad.clone() for parameter in model.parameters()]
    loss.backward()
    for parameter, grad in zip(model.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * grad)


def test_a_second_model_of_the_same_class_has_compiled_code_of_its_own():
    """As in k-fold training: the code of the first model would run, unknown to the new hooks."""
    for seed in (1, 2):
        model, attached, _ = compiled_around_checkpoints()
        mixup = ManifoldMixup(attached, ["layer1.0"], seed=seed)
        x = example(model, seed)
        loss = mixup.wrap(PLAIN)(attached(x), TARGET)
        loss.backward()
        oracle = residual(None)
        expected = hand_split(oracle, x, mixup.plan)
        MixedTarget(TARGET, mixup.plan).loss(PLAIN, expected).backward()
        for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("layer", ["input", "stem", "layer1"])
@pytest.mark.parametrize("blend", [Interpolate(), Cut(dims=(1,)), SimilarityKernel()])
def test_a_selective_checkpoint_may_keep_every_result(layer, blend):
    def keep(context, operator, *args, **kwargs):
        return CheckpointPolicy.MUST_SAVE

    contexts = functools.partial(create_selective_checkpoint_contexts, keep)
    model = residual(None)
    mixup = ManifoldMixup(model, [layer], blend=blend, seed=0)
    x = example(model)
    output = checkpoint(model, x, use_reentrant=False, context_fn=contexts)
    mixup.wrap(PLAIN)(output, TARGET).backward()
    kept = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with mixup.using(mixup.plan):
        mixup.wrap(PLAIN)(model(x), TARGET).backward()
    for parameter, gradient in zip(model.parameters(), kept, strict=True):
        assert gradient.allclose(parameter.grad)
