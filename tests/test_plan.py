"""MixPlan: a value that is validated when it is created."""

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup import ManifoldMixup, MixPlan, mix
from manifold_mixup._mix import apply

LAM, PERM = torch.tensor(0.25), torch.tensor([2, 0, 1])


def test_fields_are_kept_as_given():
    plan = MixPlan("fc", LAM, PERM)
    assert plan.layer == "fc"
    assert plan.lam is LAM
    assert plan.perm is PERM
    assert plan.batch == 3


def test_lam_is_never_folded():
    assert MixPlan("fc", torch.tensor(0.1), PERM).lam.item() == pytest.approx(0.1)
    lam = torch.tensor([0.0, 0.3, 1.0])
    assert torch.equal(MixPlan("fc", lam, PERM).lam, lam)


def test_a_plan_does_not_change():
    plan = MixPlan("fc", LAM, PERM)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.layer = "conv"
    moved = dataclasses.replace(plan, layer="conv")
    assert (moved.layer, moved.lam, plan.layer) == ("conv", LAM, "fc")


def test_plans_are_hashable_and_equal_only_to_themselves():
    plan = MixPlan("fc", LAM, PERM)
    assert plan != MixPlan("fc", LAM, PERM)  # not an error about the truth value of a tensor
    assert {plan: 1}[plan] == 1


def test_the_text_is_short_however_large_the_batch():
    assert repr(MixPlan("fc", LAM, PERM)) == "MixPlan(layer='fc', lam=0.25, batch=3)"
    wide = MixPlan("fc", torch.rand(999), torch.randperm(999))
    assert repr(wide) == "MixPlan(layer='fc', lam=999 values, batch=999)"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_copies_are_plans(copied):
    plan = MixPlan("fc", LAM.expand(3), PERM)
    twin = copied(plan)
    assert twin.layer == "fc"
    assert torch.equal(twin.lam, plan.lam)
    assert torch.equal(twin.perm, plan.perm)


@pytest.mark.parametrize(
    ("layer", "lam", "perm", "error", "says"),
    [
        (3, LAM, PERM, TypeError, "layer must be a name, but is a int"),
        ("fc", "0.25", PERM, TypeError, r"lam must be a tensor of torch.float32, but is str"),
        ("fc", True, PERM, TypeError, r"lam must be a tensor of torch.float32, but is bool"),
        ("fc", 1.5, PERM, ValueError, "lam must be between 0 and 1"),
        ("fc", 0.25, [2, 0, 1], TypeError, "perm must be a tensor of torch.int64, but is list"),
        ("fc", LAM.double(), PERM, TypeError, "lam.*but is torch.float64"),
        ("fc", LAM.half(), PERM, TypeError, "lam.*but is torch.float16"),
        ("fc", LAM, [2, 0, 1], TypeError, "perm must be a tensor of torch.int64, but is list"),
        ("fc", LAM, PERM.int(), TypeError, "perm.*but is torch.int32"),
        ("fc", LAM, PERM.float(), TypeError, "perm.*but is torch.float32"),
        ("fc", LAM, PERM[None], ValueError, r"\(batch,\), but has \(1, 3\)"),
        ("fc", LAM, torch.tensor(0), ValueError, r"\(batch,\), but has \(\)"),
        ("fc", LAM[None], PERM, ValueError, r"lam has \(1,\) and perm \(3,\)"),
        ("fc", LAM.expand(4), PERM, ValueError, r"lam has \(4,\) and perm \(3,\)"),
        ("fc", LAM.expand(3, 1), PERM, ValueError, r"lam has \(3, 1\) and perm \(3,\)"),
        ("fc", LAM.clone().requires_grad_(), PERM, ValueError, "must not require a gradient"),
        ("fc", torch.tensor(-0.1), PERM, ValueError, "lam must be between 0 and 1"),
        ("fc", torch.tensor(1.1), PERM, ValueError, "lam must be between 0 and 1"),
        ("fc", torch.tensor(torch.nan), PERM, ValueError, "lam must be between 0 and 1"),
        ("fc", torch.tensor([0.5, 0.5, 2.0]), PERM, ValueError, "lam must be between 0 and 1"),
        ("fc", LAM, torch.tensor([1, 2, 3]), ValueError, "0 to 2, but holds 1 to 3"),
        ("fc", LAM, torch.tensor([-1, 1, 2]), ValueError, "0 to 2, but holds -1 to 2"),
        ("fc", LAM.to("meta"), PERM, ValueError, "one device, but are on meta and cpu"),
    ],
)
def test_what_is_no_plan_is_refused(layer, lam, perm, error, says):
    with pytest.raises(error, match=says):
        MixPlan(layer, lam, perm)


LABEL = torch.tensor([0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("label", "error", "says"),
    [
        ("0.5", TypeError, r"label must be a tensor of torch.float32, but is str"),
        (LABEL.double(), TypeError, r"label must be .* but is torch.float64"),
        (LABEL[:2], ValueError, r"label has \(2,\) and perm \(3,\)"),
        (-0.5, ValueError, "label must be between 0 and 1"),
        (LABEL * 2, ValueError, "label must be between 0 and 1"),
        (LABEL * torch.nan, ValueError, "label must be between 0 and 1"),
        (LABEL.clone().requires_grad_(), ValueError, "label must not require a gradient"),
        (LABEL.to("meta"), ValueError, "label and perm must be on one device"),
    ],
)
def test_what_is_no_share_of_the_labels_is_refused(label, error, says):
    with pytest.raises(error, match=says):
        MixPlan("fc", LAM, PERM, label=label)


def test_the_targets_share_is_the_labels_or_else_that_of_the_states():
    assert MixPlan("fc", LAM, PERM).target_lam is LAM
    plan = MixPlan("fc", LAM, PERM, label=LABEL)
    assert plan.target_lam is LABEL
    assert repr(plan) == "MixPlan(layer='fc', lam=0.25, label=3 values, batch=3)"
    assert MixPlan("fc", LAM, PERM, label=0.5).target_lam.item() == 0.5


def test_a_plan_knows_whether_it_repeats_partners():
    assert not MixPlan("fc", LAM, PERM).repeats
    plan = MixPlan("fc", LAM, torch.tensor([0, 0, 1]), label=LABEL)
    for same in (plan, copy.deepcopy(plan), pickle.loads(pickle.dumps(plan)), plan.to("cpu:0")):
        assert same.repeats
        assert torch.equal(same.label, LABEL)
        assert torch.equal(same.perm, plan.perm)


def test_plans_that_were_stored_before_labels_had_a_share_load():
    stored = MixPlan.__new__(MixPlan)
    for name, value in (("layer", "fc"), ("lam", LAM), ("perm", PERM)):
        object.__setattr__(stored, name, value)
    loaded = pickle.loads(pickle.dumps(stored))
    assert (loaded.label, loaded.repeats) == (None, False)
    assert torch.equal(loaded.target_lam, LAM)


# Written by torch.save at commit 2f3e9fe, when a plan had a layer, λ and the partners alone.
BEFORE_WEIGHTS = Path(__file__).parent / "data" / "plan_before_weights.pt"


@pytest.mark.parametrize("name", ["batch", "examples"])
def test_plans_that_were_saved_before_there_were_weights_load_and_mix(name):
    # weights_only=True reads tensors and refuses classes, as MixPlan is one. The file is our own;
    # that of a stranger can run code when it is loaded in this way.
    plan = torch.load(BEFORE_WEIGHTS, weights_only=False)[name]
    assert type(plan) is MixPlan
    assert set(vars(plan)) == {"layer", "lam", "perm"}
    assert (plan.weight, plan.label, plan.noise, plan.box) == (None,) * 4
    assert not plan.repeats
    assert not plan.pending
    assert plan.target_lam is plan.lam
    perm = torch.tensor([2, 0, 3, 1])
    lam = torch.tensor([0.25] * 4 if name == "batch" else [0.0, 0.25, 0.5, 1.0])
    torch.manual_seed(0)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    state = model[0](x)
    state = lam[:, None] * state + (1 - lam[:, None]) * state[perm]
    output = model[2](model[1](state))
    own, partner = (nn.functional.cross_entropy(output, t, reduction="none") for t in (y, y[perm]))
    loss = (lam * own + (1 - lam) * partner).mean()
    expected = torch.autograd.grad(loss, tuple(model.parameters()))
    with ManifoldMixup(model, ["0"]) as mixup:
        for same in (plan, pickle.loads(pickle.dumps(plan)), dataclasses.replace(plan)):
            torch.testing.assert_close(mix(model[0](x), same), state)
            with mixup.using(same):
                found = mixup.wrap(nn.CrossEntropyLoss())(model(x), y)
            torch.testing.assert_close(found, loss)
            gradients = torch.autograd.grad(found, tuple(model.parameters()))
            torch.testing.assert_close(gradients, expected)
    assert plan.to("meta").lam.shape == plan.lam.shape


def test_moving_to_the_device_it_is_on_is_free():
    plan = MixPlan("fc", LAM, PERM)
    assert plan.to("cpu") is plan


@pytest.mark.parametrize(
    ("lam", "perm"),
    [
        (LAM, PERM),
        (torch.rand(3), PERM),
        (LAM.expand(3), PERM),
        (torch.rand(6)[::2], torch.stack([PERM, PERM], dim=1)[:, 0]),
    ],
    ids=["scalar", "per_sample", "expanded", "strided"],
)
def test_moving_keeps_values_types_and_shapes(lam, perm):
    plan = MixPlan("fc", lam, perm)
    moved = plan.to("cpu:0")  # a different device than "cpu"
    assert moved is not plan
    assert moved.layer == "fc"
    assert torch.equal(moved.lam, lam)
    assert torch.equal(moved.perm, perm)
    on_meta = plan.to("meta")
    for field, seen in ((lam, on_meta.lam), (perm, on_meta.perm)):
        assert (seen.shape, seen.dtype, seen.device.type) == (field.shape, field.dtype, "meta")


def test_a_plan_is_made_inside_compiled_code_unchecked():
    torch.compiler.reset()

    def step(x, lam, perm):
        return mix(x, MixPlan("fc", lam, perm))

    x = torch.rand(3, 2)
    compiled = torch.compile(step, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, LAM, PERM), step(x, LAM, PERM))


class Copies(TorchDispatchMode):
    """Records the copies between devices, and whether they are asynchronous."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._pin_memory.default:
            return args[0]  # fake memory cannot be pinned
        if function is torch.ops.aten._to_copy.default:
            self.seen.append((kwargs["device"].type, kwargs.get("non_blocking", False)))
        return function(*args, **kwargs)


def test_nothing_waits_for_a_gpu_but_the_cpu_waits_for_what_it_will_read():
    """It runs on fake tensors, which need no GPU."""
    plan = MixPlan("fc", LAM, PERM)
    with FakeTensorMode(allow_non_fake_inputs=True), Copies() as copies:
        on_gpu = plan.to("cuda")
        assert copies.seen == [("cuda", True)]
        on_gpu.to("cpu")
        assert copies.seen == [("cuda", True), ("cpu", False)]
        apply(torch.empty(3, 2), on_gpu.lam, on_gpu.perm)
        assert copies.seen[2:] == [("cpu", False)] * 2
        apply(torch.empty(3, 2, device="cuda:1"), on_gpu.lam, on_gpu.perm)
        assert copies.seen[4:] == [("cuda", True)] * 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lam", [LAM, LAM.expand(3), torch.rand(6)[::2]])
def test_moving_to_a_gpu_is_one_copy_that_nothing_waits_for(lam):
    plan = MixPlan("fc", lam, PERM)
    plan.to("cuda")  # the first copy initialises the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = plan.to("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(moved.lam.cpu(), lam)
    assert torch.equal(moved.perm.cpu(), PERM)
    assert moved.to("cuda:0") is moved


@pytest.mark.parametrize("lam", [0.25, 0, 1])
def test_a_python_number_is_a_lambda_for_the_whole_batch(lam):
    plan = MixPlan("fc", lam, PERM)
    assert torch.equal(plan.lam, torch.tensor(float(lam)))
    assert plan.lam.dtype == torch.float32
