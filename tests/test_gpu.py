"""Tests that need a GPU, and are skipped without one."""

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan, mix, sample_plan
from zoo import BATCH, TARGET, build, example, hand_split, layers_of, logits, plan_at

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def no_synchronisation():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_drawing_and_mixing_never_wait_for_the_gpu(no_synchronisation):
    x = torch.zeros(64, 8, device="cuda", requires_grad=True)
    for per_sample in (False, True):
        plan = sample_plan(64, layers=["a"], alpha=2.0, per_sample=per_sample, device="cuda")
        assert plan.perm.device.type == plan.lam.device.type == "cuda"
        mix(x, plan).sum().backward()


@pytest.mark.parametrize("name", ["mlp", "conv", "residual", "structured", "text"])
def test_a_training_step_never_waits_and_equals_the_hand_split_one(name, no_synchronisation):
    model, oracle = build(name).cuda(), build(name).cuda()
    torch.cuda.set_sync_debug_mode("default")
    x, y = example(model).cuda(), TARGET.cuda()
    mixup = ManifoldMixup(model, layers_of(name), seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    criterion(logits(model(x)), y).backward()  # the first batch is also checked
    for _ in range(5):
        torch.cuda.set_sync_debug_mode("error")
        output = model(x)
        loss = criterion(logits(output), y)
        loss.backward()
        torch.cuda.set_sync_debug_mode("default")
        expected = logits(hand_split(oracle, x, mixup.plan))
        torch.testing.assert_close(
            loss, MixedTarget(y, mixup.plan).loss(nn.CrossEntropyLoss(), expected)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_mix_on_the_gpu_is_the_one_on_the_cpu(dtype, channels_last):
    plan = plan_at("a", per_sample=True)
    x = torch.randn(BATCH, 4, 5, 5).to(dtype)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    ours = mix(x.cuda(), plan.to("cuda"))
    torch.testing.assert_close(ours.cpu(), mix(x, plan))
    assert ours.stride() == x.stride()


def test_a_step_recorded_as_a_cuda_graph_replays_with_the_plan_in_its_buffers():
    """Each layer has a graph; before a replay, the next λ and pairs are copied into its plan."""
    model, oracle = build("conv").cuda(), build("conv").cuda()
    x, y = example(model).cuda(), TARGET.cuda()
    mixup = ManifoldMixup(model, layers_of("conv"), seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    layer = layers_of("conv")[-1]
    plan = MixPlan(layer, torch.tensor(1.0), torch.arange(BATCH)).to("cuda")

    def step():
        with mixup.using(plan):
            loss = criterion(logits(model(x)), y)
        loss.backward()
        return loss

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # PyTorch requires a warm-up on a side stream
        for _ in range(3):
            model.zero_grad()
            step()
    torch.cuda.current_stream().wait_stream(aside)
    model.zero_grad()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        drawn = sample_plan(BATCH, layers=[layer], alpha=1.0, generator=generator, device="cuda")
        plan.lam.copy_(drawn.lam)
        plan.perm.copy_(drawn.perm)
        for parameter in model.parameters():
            parameter.grad.zero_()
        graph.replay()
        oracle.zero_grad()
        expected = logits(hand_split(oracle, x, drawn))
        expected = MixedTarget(y, drawn).loss(nn.CrossEntropyLoss(), expected)
        expected.backward()
        torch.testing.assert_close(loss, expected)
        for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_steps_on_the_gpu_are_the_eager_ones(mode):
    model, oracle = build("conv").cuda(), build("conv").cuda()
    x, y = example(model).cuda(), TARGET.cuda()
    model.compile(dynamic=False, mode=mode)
    mixup = ManifoldMixup(model, layers_of("conv")[:3], seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for _ in range(12):
        model.zero_grad()
        loss = criterion(logits(model(x)), y)
        loss.backward()
        oracle.zero_grad()
        expected = logits(hand_split(oracle, x, mixup.plan))
        expected = MixedTarget(y, mixup.plan).loss(nn.CrossEntropyLoss(), expected)
        expected.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
        for ours, theirs in zip(model.parameters(), oracle.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4)
