"""The cost of mixing in a training step, as counts; ``python -m benchmarks`` has timings."""

import sys
import types
from contextlib import nullcontext

import pytest
import timm
import torch
from benchmarks import first, look, over_time
from benchmarks.counts import (
    BATCH,
    CHANNELS,
    SIDE,
    STATE,
    Tally,
    Tower,
    beyond_plain,
    count,
    one_thread,
    python_calls,
    step_cost,
)
from torch import nn

from manifold_mixup import ManifoldMixup, find_layers
from manifold_mixup._dry_run import snapshot
from manifold_mixup._proof.bench import Bench
from manifold_mixup._proof.influence import Influence
from manifold_mixup._structure import readers

aten = torch.ops.aten

SMALL = 16 * 1024  # bytes for a plan and a second loss, with a margin
either_lambda = pytest.mark.parametrize("per_sample", [False, True])


@either_lambda
def test_operator_calls_and_bytes_do_not_grow_with_the_eligible_layers(per_sample):
    one, three, twelve = (beyond_plain(layers, per_sample=per_sample) for layers in (1, 3, 12))
    assert one == three == twelve
    assert 0 < one.calls <= (28 if per_sample else 20)


@either_lambda
def test_a_step_allocates_one_state_forward_and_one_backward(per_sample):
    beyond = beyond_plain(3, per_sample=per_sample)
    assert 2 * STATE <= beyond.allocated <= 2 * STATE + SMALL


@either_lambda
def test_at_peak_there_is_one_more_copy_of_the_mixed_state(per_sample):
    beyond = beyond_plain(12, per_sample=per_sample)
    assert beyond.peak <= STATE + SMALL


def test_the_calls_of_python_functions_do_not_grow():
    """Their number is the fixed cost of a step, whatever the machine."""
    three, twelve = python_calls(3), python_calls(12)
    assert three <= (131 if torch.__version__.startswith("2.10.") else 128)
    assert python_calls(3, per_sample=True) <= three + 10
    assert twelve - three <= 9 * 8  # a layer more is a hook more, which leaves at once


@pytest.mark.parametrize("how", ["paused", "alpha", "removed"])
def test_a_step_that_is_not_mixed_costs_what_the_plain_step_does(how):
    torch.manual_seed(0)
    model = Tower()
    x, y = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.zeros(BATCH, dtype=torch.int64)
    mixup = ManifoldMixup(model, ["0", "1"], alpha=lambda step: None, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    if how == "removed":
        mixup.remove()

    def step():
        model.zero_grad()
        criterion(model(x), y).backward()

    def paused_step():
        with mixup.paused():
            step()

    with one_thread():
        cost = count(paused_step if how == "paused" else step)
    assert cost == step_cost(0)


# Tests of the counting


def test_the_tally_counts_operators_new_bytes_and_what_is_alive_at_once():
    with Tally() as tally:
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1  # 8,000 alive
        del first
        view = second.view(10, 100)
        view.add_(1)  # views and in-place operations do not allocate
        del second  # the view keeps its storage
        third = view + 1  # 8,000 alive
        del view
        fourth = third + 1  # still 8,000
    assert (tally.cost.calls, tally.cost.allocated, tally.cost.peak) == (6, 16_000, 8_000)
    assert third.shape == fourth.shape


def test_the_tally_sees_a_wasteful_mix():
    x, perm = torch.randn(BATCH, 1000, requires_grad=True), torch.randperm(BATCH)
    with Tally() as tally:
        mixed = 0.3 * x + 0.7 * x[perm]
    assert tally.cost.allocated == 4 * x.nbytes
    assert mixed.shape == x.shape


@pytest.mark.parametrize("name", ["resnet50", "vit_small_patch16_224"])
def test_a_look_runs_no_operator_more_than_twice(name):
    """Both passes run those of a plain one, and a copy of each module's output."""
    model = timm.create_model(name, num_classes=10)
    images = torch.randn(2, 3, 224, 224)
    plain = look.operators(lambda: model(images))
    assert look.looked_at(model, images) <= 2 * (plain + len(list(model.modules())))


def test_a_look_at_a_loop_over_time_runs_no_operator_more_than_twice():
    model, batch, steps = over_time.LoopOverTime(), torch.randn(64, 32, over_time.WIDTH), 32
    plain = look.operators(lambda: model(batch))
    assert look.looked_at(model, batch) <= 2 * (plain + 2 * steps + 2)  # a copy of each output


def test_what_a_look_runs_is_all_counted():
    """A module more costs its operators and a copy, in both passes; nothing twice."""
    layers = [nn.Linear(4, 4) for _ in range(6)]
    counts = [look.looked_at(nn.Sequential(*layers[:n]), torch.ones(2, 4)) for n in (4, 5, 6)]
    assert counts[1] - counts[0] == counts[2] - counts[1]
    assert counts[1] - counts[0] == 2 * (2 + 1)  # in each pass a transpose, a product and a copy


@pytest.mark.parametrize("inside", [False, True], ids=["around the model", "in the model too"])
def test_a_look_under_autocast_runs_no_more_passes(inside, monkeypatch):
    """What autocast converted in one pass and kept would be missing from the next."""
    from manifold_mixup import _inspect
    from manifold_mixup._dry_run import left_behind

    class Half(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16) if inside else nullcontext():
                return super().forward(x)

    def unexpected(*_, **__):
        raise AssertionError("a search that only suspicions justify")

    monkeypatch.setattr(_inspect, "why_rows_depend", unexpected)
    monkeypatch.setattr(left_behind.gc, "get_objects", unexpected)
    model = Half(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.ones(2, 4))  # what it converted is still there
        table = find_layers(model, torch.ones(2, 4))
        assert model(torch.ones(2, 4)).isfinite().all()
    assert [row.cut for row in table] == [True] * 3


def passes_of_a_first_step(layers: int) -> list[tuple[int, bool]]:
    """Return the examples of each pass of the proof, and whether it is mixed."""
    model, batch = first.bert(256, 4), first.sentences()
    names = [f"bert.encoder.layer.{block}" for block in range(layers)]
    mixup = ManifoldMixup(model, names, mask="attention_mask", seed=0)
    with first.counted_passes() as passes:
        model(**batch)
    mixup.remove()
    return passes


def test_the_proof_of_a_first_step_runs_few_passes():
    """Two for all layers, one for each, and one of a pair of examples between λ = 0 and 1."""
    one, three = passes_of_a_first_step(1), passes_of_a_first_step(3)
    assert one == [(4, False), (4, True), (4, True), (2, True)]
    assert three == [*one, (4, True), (4, True)]


def test_the_proof_of_a_first_step_measures_no_mask_twice(monkeypatch):
    """What passes on the result of attention is not measured besides the attention."""
    measured, theirs = [], Influence._measure
    monkeypatch.setattr(
        Influence, "_measure", lambda self, *ends: measured.append(1) or theirs(self, *ends)
    )
    passes_of_a_first_step(1)
    assert len(measured) == 1 + 3  # the layer, and the attentions of the three blocks after it


def test_a_first_step_searches_what_the_model_reaches_once(monkeypatch):
    """The look and the proof each put everything back."""
    walks, theirs = [], snapshot.reach
    monkeypatch.setattr(snapshot, "reach", lambda model: walks.append(1) or theirs(model))
    passes_of_a_first_step(1)
    assert len(walks) == 1


@pytest.mark.parametrize("change", ["import", "hook"])
def test_what_changed_after_a_look_is_searched_again(change, monkeypatch):
    model = nn.Linear(2, 2)
    with snapshot.taken_once():
        first = snapshot.snapshot_of(model)
        assert snapshot.snapshot_of(model) is first
        if change == "import":
            monkeypatch.setitem(sys.modules, "imported_meanwhile", types.ModuleType("meanwhile"))
        else:
            model.register_forward_hook(lambda *_: None)
        again = snapshot.snapshot_of(model)
        assert again is not first
        assert snapshot.snapshot_of(model) is again
    assert snapshot.snapshot_of(model) is not again


def test_a_first_step_describes_what_reads_the_mask_once(monkeypatch):
    described = []
    theirs = readers.MaskReaders._describe
    monkeypatch.setattr(
        readers.MaskReaders,
        "_describe",
        lambda self, index: described.append(index) or theirs(self, index),
    )
    passes_of_a_first_step(1)
    assert len(described) == len(set(described)) == 4  # the encoder, then each block


def test_the_proof_of_a_first_step_multiplies_with_no_large_matrix():
    """So it takes neither the time nor the memory of one."""
    sizes = set()
    model, batch = first.bert(256, 2), first.sentences()
    layers = ["bert.encoder.layer.0"]
    theirs = Bench._compute

    def watched(self, func, args, kwargs):
        made = theirs(self, func, args, kwargs)
        if made is NotImplemented and func in (aten.mm.default, aten.addmm.default):
            sizes.add(args[-1].numel())
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "_compute", watched)
        with ManifoldMixup(model, layers, mask="attention_mask", seed=0):
            model(**batch)
    assert sizes
    assert max(sizes) <= 10 * 256  # that of the classifier
