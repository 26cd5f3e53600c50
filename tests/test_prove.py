"""The proof by numbers: which layers are proven, which fail, and where numbers do not tell."""

import copy
import gc
import math
import queue
import random
import secrets
import threading
import weakref
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zoo
from all_thin import make_all_thin
from architectures import (
    Recurrent,
    mixed_by,
    token_ids,
)
from manifold_mixup import ManifoldMixup, MixPlan, find_layers, mix
from manifold_mixup._dry_run.neutral import Neutral
from manifold_mixup._proof.prove import prove
from manifold_mixup._proof.redraw import redraw_parameters
from manifold_mixup._proof.report import LayerProof, Report
from manifold_mixup._tree import map_leaves
from states import normal


@pytest.fixture(params=["copied", pytest.param("thin", marks=pytest.mark.thorough)], autouse=True)
def parameters(request, monkeypatch):
    if request.param == "thin":
        make_all_thin(monkeypatch)


def prove_one(model: nn.Module, layer: str, *args: object, **kwargs: object) -> LayerProof:
    table = find_layers(model, *args, **kwargs)
    return prove(model, [layer], args, kwargs, mixed_by(table)).layers[0]


@contextmanager
def unmixed(model: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], _: object):
    yield model(*args, **kwargs)


class Residual(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.branch = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.full((8,), scale))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x).relu()
        return self.head(h + self.scale * self.branch(h))


# Verdicts


@pytest.mark.parametrize("rows", [4, 7])
def test_an_output_of_a_number_for_each_example(rows):
    class Regression(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(1)

    assert prove_one(Regression(), "stem", normal(rows, 4)).verdict == "proven"
    assert prove_one(Regression(), "branch", normal(rows, 4)).verdict == "failed"


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.linalg.eigh(x.transpose(1, 2) @ x)


@pytest.mark.parametrize("used", [0, 1])
def test_a_result_that_nothing_uses_has_no_gradient_to_lose(used):
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.eigh, self.head = nn.Linear(4, 4), Symmetric(), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.eigh(self.stem(x))[used].abs())

    assert prove_one(Spectrum(), "eigh", normal(5, 6, 4)).verdict == "proven"


def test_lambda_0_permutes_the_outputs_of_a_valid_layer_and_of_no_other():
    model = Residual()
    table = find_layers(model, normal(6, 4))
    report = prove(model, ["stem", "branch", "head"], (normal(6, 4),), {}, mixed_by(table))
    assert [proof.verdict for proof in report.layers] == ["proven", "failed", "proven"]
    stem, branch, _ = report.layers
    assert stem.error <= 1e-12 < 0.01 < stem.difference
    assert branch.error > 0.01
    assert "bypasses" in branch.reason
    assert not report.ok


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_a_fresh_model_cannot_defeat_it(scale):
    model = Residual(scale)
    nn.init.zeros_(model.head.weight)  # like ViT's: with equal outputs, every layer would pass
    assert prove_one(model, "stem", normal(6, 4)).verdict == "proven"
    assert prove_one(model, "branch", normal(6, 4)).verdict == "failed"


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_type(request):
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def test_the_default_type_of_tensors_does_not_matter(default_type):
    model = Residual()
    with ManifoldMixup(model, ["stem"], per_sample=True, seed=0) as mixup:
        report = mixup.verify(torch.randn(6, 4))
        loss = mixup.wrap(nn.CrossEntropyLoss())(model(torch.randn(6, 4)), torch.arange(6) % 3)
    assert report.ok
    assert loss.dtype is default_type
    assert mixup.layers == ("stem",)


def test_parameters_are_redrawn_at_a_natural_scale():
    model = nn.Sequential(nn.Linear(1000, 1000), nn.LayerNorm(1000), nn.Embedding(1000, 100))
    redraw_parameters(model.requires_grad_(False))
    assert model[0].weight.std() == pytest.approx(0.0447, rel=0.02)
    assert model[0].bias.std() == pytest.approx(0.1, rel=0.1)
    assert 0.5 <= model[1].weight.min() < 0.6 < 1.4 < model[1].weight.max() <= 1.5
    again = copy.deepcopy(model)
    redraw_parameters(again)
    assert torch.equal(again[0].weight, model[0].weight)


def test_a_layer_that_runs_twice_fails():
    shared = nn.Linear(4, 4)
    assert (
        prove_one(nn.Sequential(shared, nn.Tanh(), shared), "0", normal(6, 4)).verdict == "failed"
    )


def test_a_batch_elsewhere_fails():
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x.transpose(0, 1))[0][-1]

    model, x = TimeFirst(), normal(4, 4, 4)
    assert prove_one(model, "lstm", x).verdict == "proven"
    table = find_layers(model, x)
    first = replace(table, rows=tuple(replace(row, batch_dims=()) for row in table))
    assert prove(model, ["lstm"], (x,), {}, mixed_by(first)).layers[0].verdict == "failed"


def test_an_auxiliary_output_that_leaves_before_fails():
    class Auxiliary(Residual):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.stem(x)
            return {"out": self.head(self.branch(h)), "aux": h}

    assert prove_one(Auxiliary(), "stem", normal(6, 4)).verdict == "proven"
    proof = prove_one(Auxiliary(), "branch", normal(6, 4))
    assert proof.verdict == "failed"
    assert "'aux'" in proof.reason


def test_a_detached_mix_fails():
    @contextmanager
    def run(model: nn.Module, args: tuple[Tensor], kwargs: object, plan: MixPlan | None):
        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return mix(output.detach(), plan)

        handle = model.stem.register_forward_hook(hook) if plan else None
        yield model(*args)
        if handle:
            handle.remove()

    proof = prove(Residual(), ["stem"], (normal(6, 4),), {}, run).layers[0]
    assert proof.verdict == "failed"
    assert "no gradient" in proof.reason
    frozen = Residual()
    frozen.stem.requires_grad_(False)
    assert prove(frozen, ["stem"], (normal(6, 4),), {}, run).ok  # there is nothing to reach


class Detaching(Residual):
    """Trains only its head, as a linear probe."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.branch(self.stem(x)).detach())


def test_a_state_that_the_model_itself_detaches_is_proven():
    assert prove_one(Detaching(), "stem", normal(6, 4)).verdict == "proven"


@pytest.mark.parametrize("kind", ["checkpoint", "reentrant"])
def test_checkpoints_are_no_obstacle_before_them_inside_and_after(kind):
    model, batch = zoo.build(kind), normal(6, 5)
    with ManifoldMixup(model, zoo.layers_of(kind), check=False) as mixup:
        report = mixup.verify(batch)
    assert report.ok, report


def test_a_wrong_mix_fails():
    @contextmanager
    def run(model: nn.Module, args: tuple[Tensor], kwargs: object, plan: MixPlan | None):
        def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            return map_leaves(lambda _, h: h[plan.perm].roll(1, 0), output)

        handle = model.stem.register_forward_hook(hook) if plan else None
        yield model(*args)
        if handle:
            handle.remove()

    assert prove(Residual(), ["stem"], (normal(6, 4),), {}, run).layers[0].verdict == "failed"


class Structured(Residual):
    """Returns the result of ``extra`` on an early state besides its own output."""

    def __init__(self, extra: object) -> None:
        super().__init__()
        self.extra = extra
        self.register_buffer("anchors", normal(4, 2))

    def forward(self, x: Tensor) -> tuple[Tensor, object]:
        h = self.stem(x)
        return self.head(self.branch(h)), self.extra(self, h)


@pytest.mark.parametrize(
    "extra",
    [
        lambda m, _: m.anchors,  # as many as the proof has examples
        lambda m, _: m.head.bias * math.inf,
        lambda _, h: h.square().mean(),
        lambda _, h: h.mean(0),
        lambda _, h: h.mean(0)[:4, None] * normal(4, 4).to(h),
    ],
)
def test_outputs_without_a_batch_say_nothing(extra):
    assert prove_one(Structured(extra), "branch", normal(6, 4)).verdict == "proven"


def test_an_output_that_holds_the_batch_elsewhere_counts():
    model = Structured(lambda _, h: h.T)
    assert prove_one(model, "stem", normal(6, 4)).verdict == "proven"
    proof = prove_one(model, "branch", normal(6, 4))
    assert proof.verdict == "failed"
    assert "the output '1'" in proof.reason


def test_what_scales_noise_bypasses():
    class TwoHeaded(Residual):
        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.head(self.branch(h) + torch.randn_like(h) * (h * self.scale).exp())

    assert prove_one(TwoHeaded(), "stem", normal(6, 4)).verdict == "proven"
    assert prove_one(TwoHeaded(), "branch", normal(6, 4)).verdict == "failed"


def test_a_state_that_is_not_finite_after_the_mix_fails():
    @contextmanager
    def run(model: nn.Module, args: tuple[Tensor], kwargs: object, plan: MixPlan | None):
        yield model(*args) * (math.nan if plan else 1.0)

    assert prove(Residual(), ["stem"], (normal(6, 4),), {}, run).layers[0].verdict == "failed"


class Overflows(Residual):
    """Finite in float32 only, as a mask is that adds the lowest number twice."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * math.log(2 * torch.finfo(x.dtype).max)


def test_a_model_that_is_finite_in_float32_only_is_tested_there():
    assert not Overflows().double()(normal(6, 4).double()).isfinite().any()
    assert prove_one(Overflows(), "stem", normal(6, 4)).verdict == "proven"
    assert prove_one(Overflows(), "branch", normal(6, 4)).verdict == "failed"


class Infinite(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * math.inf


def test_a_model_that_is_finite_nowhere_is_inconclusive():
    proof = prove_one(Infinite(), "stem", normal(6, 4))
    assert proof.verdict == "inconclusive"
    assert "not finite with redrawn parameters" in proof.reason


# Inconclusive numbers


@pytest.mark.parametrize(
    ("scale", "verdict"), [(1e-1, "failed"), (1e-8, "inconclusive"), (1e-17, "proven")]
)
def test_a_bypass_is_told_from_rounding_or_nothing_is_said(scale, verdict):
    class Faint(Residual):
        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x)
            return self.head(self.branch(h) + scale * h)

    proof = prove_one(Faint(), "branch", normal(6, 4))
    assert proof.verdict == verdict, proof


class Constant(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * 0)


class Coupled(Residual):
    """Treats the first half of the batch differently from the second."""

    def forward(self, x: Tensor) -> Tensor:
        half = len(x) // 2
        return super().forward(torch.cat([x[:half], -x[half:]]))


class Dice(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (
            1 + secrets.randbelow(2**32) / 2**32
        )  # not from a seeded generator


class Saturated(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return 1 + 1e-14 * super().forward(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Constant(), "all examples give the same outputs"),
        (Coupled(), "depend on the order of the examples"),
        (Dice(), "two unmixed passes differ"),
        (Saturated(), "differ by"),
        (nn.Sequential(nn.Linear(4, 4), nn.Flatten(0)), "batch as its dimension 0"),
    ],
)
def test_inconclusive_is_said_with_the_reason(model, reason):
    report = prove(model, ["stem"], (normal(6, 4),), {}, unmixed)
    assert report.layers[0].verdict == "inconclusive"
    assert reason in report.layers[0].reason
    assert not report.ok


def test_what_python_draws_is_the_same_in_every_pass():
    class LayerDrop(Residual):
        def forward(self, x: Tensor) -> Tensor:
            own = self.generator.random() + torch.rand((), generator=self.other)
            return super().forward(x) * (1 + random.random() + np.random.rand() + own)  # noqa: NPY002

    model = LayerDrop()
    model.generator, model.other = np.random.default_rng(0), torch.Generator()
    assert prove_one(model, "stem", normal(6, 4)).verdict == "proven"
    assert model.generator.random() == np.random.default_rng(0).random()


def test_a_model_that_cannot_be_copied_is_proven():
    model = Residual()
    model.lock = threading.Lock()
    assert prove_one(model, "stem", normal(6, 4)).verdict == "proven"


def test_an_error_of_the_model_is_skipped_with_its_text():
    report = prove(Residual(), ["stem"], (normal(6, 5),), {}, unmixed)
    assert "shapes cannot be multiplied" in report.layers[0].reason


# Examples


@pytest.mark.parametrize(
    "example", [torch.zeros(6, 4), torch.ones(1, 4), normal(1, 4), normal(2, 4)]
)
def test_examples_that_are_alike_get_noise(example):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    assert prove_one(model, "0", example).verdict == "proven"


def test_token_ids_of_one_example_are_rolled():
    model = Recurrent(nn.GRU)
    assert prove_one(model, "rnn1", token_ids()[:1]).verdict == "proven"
    report = prove(model, ["rnn1"], (torch.ones(3, 5).long(),), {}, unmixed)
    assert "all examples give the same outputs" in report.layers[0].reason


def test_it_does_not_touch_the_batch_the_model_or_a_generator():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 4)).eval()
    batch = torch.zeros(3, 4)
    state = copy.deepcopy(model.state_dict())
    torch.manual_seed(0)
    prove_one(model, "0", batch)
    after = torch.rand(())
    torch.manual_seed(0)
    assert after == torch.rand(())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert batch.eq(0).all()


def test_no_pass_leaves_its_activations_behind():
    made = weakref.WeakSet()  # the contents of a WeakSet cannot be restored

    class Watched(Residual):
        def forward(self, x: Tensor) -> Tensor:
            h = self.stem(x).exp()  # a node that saves its own output
            made.add(h)
            passes.put(1)
            return self.head(h)

    passes = queue.Queue()
    prove_one(Watched(), "stem", normal(6, 4))
    gc.collect()
    assert passes.qsize() > 4
    assert not made


@pytest.mark.parametrize("batch", [5, 8])
@pytest.mark.parametrize("length", [4, 5])  # the proof uses four examples
def test_an_input_without_a_batch_may_be_as_long_as_one(batch, length):
    class Placed(Residual):
        def forward(self, x: Tensor, places: Tensor) -> Tensor:
            return self.head((self.stem(x) * places).tanh().mean(1))

    for places in (normal(length, 8), torch.arange(length)[:, None].expand(-1, 8)):
        proof = prove_one(Placed(), "stem", normal(batch, length, 4), places=places)
        assert proof.verdict == "proven", proof


def test_no_hook_of_the_model_is_called():
    model, called = Residual(), []
    for register in (
        model.stem.register_forward_hook,
        model.stem.register_forward_pre_hook,
        model.stem.register_full_backward_hook,
        model.stem.register_full_backward_pre_hook,
        model.stem.weight.register_hook,
        model.stem.weight.register_post_accumulate_grad_hook,
    ):
        register(lambda *_: called.append(1))
    assert prove_one(model, "stem", normal(6, 4)).verdict == "proven"
    assert not called
    assert model.stem.weight.grad is None


# Training modes and settings


def test_dropout_and_batch_statistics_are_no_obstacle():
    block = (nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.9), nn.RReLU(), nn.AlphaDropout())
    model = nn.Sequential(nn.Linear(4, 8), *block, nn.Linear(8, 3))
    table = find_layers(model, normal(6, 4))
    layers = [row.name for row in table]
    assert prove(model, layers, (normal(6, 4),), {}, mixed_by(table)).ok


@pytest.mark.parametrize("inplace", [False, True])
def test_a_random_slope_has_its_mean_in_backward_too(inplace):
    """PyTorch's backward reads the slopes that were drawn, of which there are none."""
    x = torch.linspace(-2, 2, 64, requires_grad=True)
    with Neutral():
        y = nn.functional.rrelu(x.clone(), lower=0.25, upper=0.5, training=True, inplace=inplace)
        y.sum().backward()
    slopes = torch.where(x > 0, 1.0, 0.375)
    torch.testing.assert_close(y, slopes * x)
    torch.testing.assert_close(x.grad, slopes)


def test_a_changing_state_does_not_matter():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    assert (
        prove_one(nn.Sequential(spectral, nn.Linear(4, 4)), "0", normal(6, 4)).verdict == "proven"
    )


def test_a_buffer_that_is_made_in_the_first_pass_does_not_matter():
    class Lazy(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale_of", torch.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            if len(self.scale_of) != x.shape[1]:
                self.scale_of = torch.arange(x.shape[1]).to(x)
            return super().forward(x * self.scale_of)

    assert prove_one(Lazy(), "stem", normal(6, 4)).verdict == "proven"


class Float(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.linear(x.float(), self.stem.weight).relu())


def test_a_model_of_one_precision_is_tried_in_it():
    with torch.autocast("cpu", dtype=torch.bfloat16):  # would round float32
        proof = prove(Float(), ["head"], (normal(6, 4),), {}, mixed_by_head).layers[0]
    assert proof.verdict == "proven"
    assert 1e-9 < proof.rounding < 1e-5


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_complex_states_are_tried_in_double_precision(dtype):
    model = nn.Sequential(nn.Identity(), Complex(), Complex())
    if dtype == torch.float32:
        model[0] = ToComplex()
    proof = prove_one(model, "1", normal(6, 4).to(dtype))
    assert proof.verdict == "proven"
    assert proof.rounding < 1e-12


class ToComplex(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(x.dtype.to_complex())


def test_a_complex_bypass_is_seen():
    class Skipping(Complex):
        def __init__(self) -> None:
            super().__init__()
            self.first = Complex()

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.first(x)) + 1j * x

    assert prove_one(Skipping(), "first", normal(6, 4).to(torch.complex64)).verdict == "failed"


@contextmanager
def mixed_by_head(model: nn.Module, args: tuple[Tensor], kwargs: object, plan: MixPlan | None):
    out = model(*args)
    yield out if plan is None else mix(out, plan)


def test_compiled_models_are_tried_eagerly():
    model = torch.compile(Residual(), backend="eager")
    with ManifoldMixup(model, ["stem", "head"]) as mixup:
        assert mixup.verify(normal(6, 4)).ok


class Share(nn.Module):
    """Averages over a share of the steps, which is a logarithm of nothing outside of 0 to 1."""

    def forward(self, h: Tensor, share: Tensor) -> Tensor:
        steps = torch.arange(h.shape[1]).to(h) / h.shape[1]
        valid = (steps < share[:, None]).to(h) + share.log()[:, None] + (1 - share).sqrt()[:, None]
        return (h * valid[..., None]).sum(1) / valid.sum(1, keepdim=True)


def test_a_share_that_is_one_for_all_examples_stays_a_share():
    class Shares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.share, self.head = nn.Linear(4, 8), Share(), nn.Linear(8, 3)

        def forward(self, x: Tensor, share: Tensor) -> Tensor:
            return self.head(self.share(self.stem(x), share))

    given = normal(6, 5, 4), torch.ones(6)
    with ManifoldMixup(Shares(), ["stem"], example=given) as mixup:
        assert mixup.verify(*given).ok


def test_the_report_is_a_table():
    report = Report(
        (LayerProof("a", "proven", "", 0.0, 1.0, 1e-16), LayerProof("bc", "skipped", "why"))
    )
    lines = str(report).splitlines()
    assert lines[0] == "a   proven        error 0.0e+00, examples differ by 1.0e+00"
    assert lines[1] == "bc  skipped       why"
