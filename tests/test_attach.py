"""The life of an attachment: attach, look, pause, replace, resume, remove."""

import contextlib
import copy
import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from manifold_mixup import ManifoldMixup
from zoo import BATCH, CLASSES, Residual, build, example, hand_split, plain_mix, plan_at

TARGET = torch.arange(BATCH) % CLASSES
LAYERS = ["input", "fc1", "fc2"]


def train_step(mixup, model, x):
    mixup.wrap(nn.CrossEntropyLoss())(model(x), TARGET).backward()
    return mixup.plan


def stream(mixup, model, steps=6):
    x = example(model)
    plans = [train_step(mixup, model, x) for _ in range(steps)]
    return [(p.layer, p.lam.item(), p.perm.tolist()) if p else None for p in plans]


def test_layers_stand_in_order_of_execution_however_they_were_named():
    model = build("residual")
    mixup = ManifoldMixup(model, ["layer2", model.layer1, "input", "layer?.0", "layer2"])
    assert mixup.layers == ("input", "layer1.0", "layer1", "layer2") or mixup.layers == (
        "input",
        "layer1",
        "layer1.0",
        "layer2",
    )
    stream(mixup, model, 1)
    assert mixup.layers == ("input", "layer1.0", "layer1", "layer2")


def test_one_name_and_one_module_need_no_list():
    assert ManifoldMixup(build("mlp"), "fc1").layers == ("fc1",)
    model = nn.Sequential(nn.Sequential(), nn.Linear(2, 2))
    assert ManifoldMixup(model, model[0]).layers == ("0",), "an empty module is falsy"


def test_layers_are_chosen_from_an_example():
    model = build("residual")
    mixup = ManifoldMixup(model, example=example(model))
    assert mixup.layers[0] == "input"
    assert len(mixup.layers) == 3
    assert mixup.verify(example(model)).ok


@pytest.mark.parametrize("check", [True, False])
def test_verify_before_training_knows_what_a_layer_mixes(check):
    model = build("lstm")
    mixup = ManifoldMixup(model, ["input", "lstm"], check=check)
    assert mixup.verify(example(model)).ok, str(mixup.verify(example(model)))
    mixup.assert_verified(example(model))


def test_assert_verified_names_the_layer_that_is_bypassed():
    model = build("residual")
    mixup = ManifoldMixup(model, ["layer1", "layer1.0.fc"])
    with pytest.raises(ValueError, match=r"layer1.0.fc +failed"):
        mixup.assert_verified(example(model))


@pytest.mark.parametrize(
    "as_example", [lambda x: x, lambda x: (x,), lambda x: {"x": x}], ids=["tensor", "tuple", "dict"]
)
def test_an_example_is_one_batch_in_any_form(as_example):
    model = build("mlp")
    assert ManifoldMixup(model, example=as_example(example(model))).layers


def test_the_notebook_cell_run_twice_says_what_to_do():
    model = build("mlp")
    first = ManifoldMixup(model, LAYERS)
    with pytest.raises(RuntimeError, match=r"ManifoldMixup\(layers=.*replace=True"):
        ManifoldMixup(model, LAYERS)
    stream(first, model, 1)  # the failed cell broke nothing

    second = ManifoldMixup(model, LAYERS, replace=True, seed=3)
    stream(second, model, 1)
    with pytest.raises(RuntimeError, match="another ManifoldMixup has replaced this one"):
        first.wrap(nn.CrossEntropyLoss())(model(example(model)), TARGET)
    assert hooks_on(model) == len(LAYERS) - 1 + 2


@pytest.mark.parametrize("part", ["encoder", "whole"])
def test_a_part_and_the_whole_cannot_both_be_attached(part):
    whole = nn.Sequential()
    whole.add_module("encoder", build("mlp"))
    first, second = (whole.encoder, whole) if part == "encoder" else (whole, whole.encoder)
    ManifoldMixup(first, "encoder.fc1" if first is whole else "fc1")
    with pytest.raises(RuntimeError, match=r"already has ManifoldMixup\(.* attached"):
        ManifoldMixup(second, "encoder.fc2" if second is whole else "fc2")


def test_a_failed_replacement_leaves_the_first_in_place():
    model = build("mlp")
    first = ManifoldMixup(model, LAYERS, seed=0)
    for bad in ({"layers": ["fc9"]}, {"layers": LAYERS, "alpha": -1.0}):
        with pytest.raises(ValueError, match=r"fc9|alpha"):
            ManifoldMixup(model, replace=True, **bad)
    assert all(stream(first, model))


def test_remove_after_an_exception_in_the_forward_pass():
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", seed=0, check=False)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(BATCH, 99))
    # The pass is over: a layer called on its own is not mixed.
    h = torch.randn(BATCH, 5)
    with torch.no_grad():
        assert torch.equal(model.fc1(h), nn.functional.linear(h, model.fc1.weight, model.fc1.bias))
    mixup.remove()
    assert hooks_on(model) == 0
    mixup.remove()  # twice is no error


def test_after_an_interrupt_from_the_keyboard_an_evaluated_part_is_not_mixed():
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", seed=0)
    x = example(model)
    train_step(mixup, model, x)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model.fc3.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    handle.remove()
    model.eval()  # and look at the features
    assert torch.equal(model.fc1(x), nn.functional.linear(x, model.fc1.weight, model.fc1.bias))
    model.train()
    assert train_step(mixup, model, x) is not None


def test_an_exception_being_handled_outside_does_not_switch_the_checks_off():
    model = Skipping()
    ManifoldMixup(model, "never", check=False)
    try:
        raise KeyError
    except KeyError:
        with pytest.raises(RuntimeError, match="'never' should be mixed, but it has never run"):
            model(torch.randn(BATCH, 5))


def test_leaving_the_context_removes_also_after_an_exception():
    model = build("mlp")
    with pytest.raises(KeyError), ManifoldMixup(model, "fc1"):
        raise KeyError
    assert hooks_on(model) == 0


def test_after_removal_a_wrapped_criterion_is_the_plain_one():
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", alpha=2.0)
    plain, x = nn.CrossEntropyLoss(), example(model)
    wrapped = mixup.wrap(plain)
    mixup.remove()
    output = model(x)
    assert wrapped(output, TARGET) == plain(output, TARGET)
    assert repr(mixup).endswith("removed)")


def test_no_mixing_in_eval_mode_without_gradients_or_when_paused():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, plain = example(model), build("mlp")(example(model))
    with torch.no_grad():
        assert torch.equal(model(x), plain)
    with mixup.paused():
        with mixup.paused():
            pass
        assert torch.equal(model(x), plain)
    assert torch.equal(model.eval()(x), plain)
    assert mixup.state_dict()["step"] == 0


def test_the_plan_is_that_of_the_latest_training_pass_or_of_using():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, given = example(model), plan_at("fc1")
    assert mixup.plan is None
    trained = train_step(mixup, model, x)
    model.eval()(x)
    assert mixup.plan is trained
    with mixup.using(given):
        model(x)
    assert mixup.plan is given
    with mixup.paused():
        model.train()(x)
    assert mixup.plan is None
    train_step(mixup, model, x)
    mixup.remove()
    assert mixup.plan is None


def test_update_bn_sees_clean_batches():
    model, oracle = build("conv"), build("conv")
    batches = [torch.randn(BATCH, 2, 5, 5) for _ in range(3)]
    ManifoldMixup(model, ["input", "conv1"])
    update_bn(batches, model)
    update_bn(batches, oracle)
    torch.testing.assert_close(dict(model.named_buffers()), dict(oracle.named_buffers()))


def test_monte_carlo_dropout_is_left_alone():
    model = nn.Sequential(nn.Linear(5, 64), nn.Dropout(), nn.Linear(64, 3))
    mixup = ManifoldMixup(model, ["0"])
    x = torch.randn(BATCH, 5)
    torch.manual_seed(0)
    with torch.no_grad():
        sampled = model(x)
    mixup.remove()
    torch.manual_seed(0)
    assert torch.equal(model(x), sampled)


@pytest.mark.parametrize(
    "average", [AveragedModel, ModelEmaV3, copy.deepcopy], ids=["AveragedModel", "timm", "deepcopy"]
)
def test_averages_of_the_weights_come_back_unattached(average):
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    twin = average(model)
    stream(mixup, model, 3)
    if hasattr(twin, "update_parameters"):
        twin.update_parameters(model)
    inner = getattr(twin, "module", twin)
    inner.train()
    x = example(model)
    assert torch.equal(inner(x), inner(x)), "two training passes differ if they are mixed"


def test_a_copied_training_module_has_a_plain_criterion():
    whole = nn.Module()
    whole.net = build("mlp")
    whole.mixup = ManifoldMixup(whole.net, LAYERS)
    whole.criterion = whole.mixup.wrap(nn.CrossEntropyLoss())
    twin = copy.deepcopy(whole)
    output = twin.net(example(twin.net))
    assert twin.criterion(output, TARGET) == nn.CrossEntropyLoss()(output, TARGET)
    assert twin.mixup.layers == whole.mixup.layers


def test_a_resumed_run_draws_what_an_uninterrupted_one_would():
    def fresh():
        model = build("mlp")
        return ManifoldMixup(model, LAYERS, p=0.7, alpha=lambda s: None if s == 4 else 1 + s), model

    torch.manual_seed(5)
    mixup, model = fresh()
    whole = stream(mixup, model, 12)
    first, model = fresh()
    head = stream(first, model, 5)
    torch.manual_seed(99)  # another process need not have the same global seed
    second, model = fresh()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert head + stream(second, model, 7) == whole
    assert whole[4] is None
    assert 0 < whole.count(None) < 12


def test_the_seed_is_the_global_one_unless_given():
    plans = []
    for manual, seed in ((1, None), (1, None), (2, None), (2, 1)):
        torch.manual_seed(manual)
        model = build("mlp")
        plans.append(stream(ManifoldMixup(model, LAYERS, seed=seed), model))
    assert plans[0] == plans[1] == plans[3] != plans[2]


@pytest.mark.parametrize("state", [{}, {"seed": 1}, {"seed": 1, "step": "2"}, {"step": 1, "x": 2}])
def test_a_foreign_state_is_refused_and_changes_nothing(state):
    mixup = ManifoldMixup(build("mlp"), LAYERS, seed=0)
    with pytest.raises(ValueError, match="seed and step"):
        mixup.load_state_dict(state)
    assert mixup.state_dict() == {"seed": 0, "step": 0}


def test_p_is_the_share_of_batches_that_are_mixed():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, p=0.25, seed=0)
    plans = stream(mixup, model, 400)
    assert 70 < sum(plan is not None for plan in plans) < 130


def test_using_a_plan_in_eval_mode_and_without_gradients():
    model = build("mlp").eval()
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, plan = example(model), plan_at("fc1")
    with torch.no_grad(), mixup.using(plan):
        mixed = model(x)
        loss = mixup.wrap(nn.CrossEntropyLoss())(mixed, TARGET)
    plain = nn.CrossEntropyLoss()
    expected = plan.lam * plain(mixed, TARGET) + (1 - plan.lam) * plain(mixed, TARGET[plan.perm])
    torch.testing.assert_close(loss, expected)
    assert not torch.equal(mixed, model(x))
    assert mixup.state_dict()["step"] == 0


def test_of_using_and_paused_the_inner_one_counts():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, plan = example(model), plan_at("fc1")
    plain, mixed = build("mlp")(x), hand_split(build("mlp"), x, plan)
    with mixup.using(plan):
        with mixup.paused():
            torch.testing.assert_close(model(x), plain)
        torch.testing.assert_close(model(x), mixed)
    with mixup.paused():
        with mixup.using(plan):
            torch.testing.assert_close(model(x), mixed)
        torch.testing.assert_close(model(x), plain)
    assert mixup.state_dict()["step"] == 0


def test_using_the_plan_of_a_batch_that_was_not_mixed_mixes_nothing():
    """SAM and the like run a batch twice by one plan: mixup.using(mixup.plan)."""
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, p=0.5, seed=0)
    criterion, x, mixed = mixup.wrap(nn.CrossEntropyLoss()), example(model), set()
    for _ in range(8):
        first = criterion(model(x), TARGET)
        step, plan = mixup.state_dict()["step"], mixup.plan
        with mixup.using(mixup.plan):
            torch.testing.assert_close(criterion(model(x), TARGET), first)
            assert mixup.plan is plan
        assert mixup.state_dict()["step"] == step
        mixed.add(plan is not None)
    assert mixed == {True, False}


def test_using_refuses_what_it_cannot_do():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS)
    with pytest.raises(ValueError, match=r"mixes at 'fc3', but the eligible layers are"):
        mixup.using(plan_at("fc3")).__enter__()
    with mixup.using(plan_at("fc1", batch=4)), pytest.raises(ValueError, match="pairs 4 examples"):
        model(example(model))


def test_using_after_removal_or_replacement_raises():
    model = build("mlp")
    first = ManifoldMixup(model, LAYERS)
    second = ManifoldMixup(model, LAYERS, replace=True)
    with pytest.raises(RuntimeError, match="has replaced this one"):
        first.using(plan_at("fc1")).__enter__()
    second.remove()
    with pytest.raises(RuntimeError, match="was removed"):
        second.using(plan_at("fc1")).__enter__()


def test_one_plan_for_several_passes_and_one_loss():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS)
    x = example(model)
    with mixup.using(plan_at("fc1")):
        output = model(x) + model(2 * x)
    mixup.wrap(nn.CrossEntropyLoss())(output, TARGET).backward()


class Wavering(nn.Module):
    """A layer that returns another kind of value from one batch to the next."""

    def __init__(self):
        super().__init__()
        self.stage, self.head = Stage(), nn.Linear(8, CLASSES)

    def forward(self, x):
        parts = self.stage(x)
        return self.head(sum(part for part in parts if part is not None).reshape(len(x), 8))


class Stage(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.form = nn.Linear(5, 8), lambda h: (h,)

    def forward(self, x):
        return self.form(self.fc(x))


@pytest.mark.parametrize("form", [lambda h: [h, 2 * h], lambda h: (None, h)])
def test_what_a_layer_did_not_return_on_the_first_batch_is_mixed_too(form):
    """A list of as many states as the batch has views, for example."""
    model = Wavering()
    mixup = ManifoldMixup(model, "stage", seed=0)
    x = torch.randn(BATCH, 5)
    model(x)
    model.stage.form = form
    output = model(x)
    parts = [part for part in form(model.stage.fc(x)) if part is not None]
    mixed = sum(plain_mix(part, mixup.plan) for part in parts)
    torch.testing.assert_close(output, model.head(mixed))
    model.stage.form = lambda h: (h, h[:1])
    with pytest.raises(ValueError, match=r"'stage' should mix 6 .* at '1' has shape \(1, 8\)"):
        model(x)
    model.stage.form = lambda h: (h, h.mean())
    with pytest.raises(ValueError, match=r"'stage' should mix 6 .* at '1' has shape \(\)"):
        model(x)


def test_a_layer_with_nothing_to_mix_raises():
    model = Wavering()
    ManifoldMixup(model, "stage")
    x = torch.randn(BATCH, 5)
    model(x)
    model.stage.form = lambda h: (h.round().long(), None)
    with pytest.raises(ValueError, match=r"'stage' should be mixed, but its output, a tuple"):
        model(x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_skipped_layer_beside_a_compiled_one():
    model = Skipping()
    model.head.compile(backend="eager")
    mixup = ManifoldMixup(model, "dropped", seed=0)
    model(torch.randn(BATCH, 5))
    model.drop = True
    model(torch.randn(BATCH, 5))
    assert mixup.skipped == 1


class Skipping(nn.Module):
    """LayerDrop: a layer runs only in some passes."""

    def __init__(self):
        super().__init__()
        self.stem, self.dropped, self.never = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        self.drop = False

    def forward(self, x):
        h = self.stem(x)
        return self.head(h if self.drop else self.dropped(h))


@pytest.mark.parametrize("check", [True, False])
def test_a_skipped_layer_gives_plain_targets_and_is_counted(check):
    model = Skipping()
    mixup = ManifoldMixup(model, "dropped", check=check, seed=0)
    x, plain = torch.randn(BATCH, 5), nn.CrossEntropyLoss()
    train_step(mixup, model, x)
    assert mixup.plan is not None
    model.drop = True
    output = model(x)
    assert mixup.plan is None
    assert mixup.wrap(plain)(output, TARGET) == plain(output, TARGET)
    assert mixup.skipped == 1
    assert "skipped=1" in repr(mixup)


class LayerDrop(nn.Module):
    """Drops its middle layer by a chance of its own."""

    def __init__(self, drop):
        super().__init__()
        self.stem, self.middle, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.drop, self.dropped = drop, None

    def forward(self, x):
        h = self.stem(x)
        self.dropped = bool(self.drop())
        return self.head(h if self.dropped else self.middle(h))


@pytest.fixture
def generators():
    """What the global generators are at, put back afterwards."""

    def states():
        legacy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield states
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


DROPS = {
    "python": lambda: random.random() < 0.5,
    "numpy": lambda: np.random.rand() < 0.5,  # noqa: NPY002
    "below": lambda: torch.rand([]) < 0.6,
    "above": lambda: torch.rand([]) > 0.4,
    "uniform": lambda: torch.empty(1).uniform_(-1, 1) < 0.2,
    "bernoulli": lambda: torch.bernoulli(torch.tensor(0.5)),
}


@pytest.mark.parametrize("given", ["example", "first batch"])
@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_a_layer_dropped_at_random_is_no_error_on_the_first_batch_either(drop, given, generators):
    x, skipped = torch.randn(BATCH, 5), 0
    for seed in range(6):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        model, before = LayerDrop(drop), generators()[:2]
        mixup = ManifoldMixup(
            model, ["stem", "middle"], example=x if given == "example" else None, seed=seed
        )
        assert generators()[:2] == before
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for _ in range(3):
            output = model(x)
            plain = nn.functional.cross_entropy(output, TARGET)
            assert mixup.plan is None or mixup.plan.layer == "stem" or not model.dropped
            assert torch.equal(criterion(output, TARGET), plain) == (mixup.plan is None)
        skipped += mixup.skipped
    assert 0 < skipped < 18


def test_a_container_is_refused_with_the_way_out():
    model = build("text")
    ManifoldMixup(model, ["blocks"])
    with pytest.raises(ValueError, match=r"'blocks' did not run.*nn.ModuleList.*its items"):
        model(example(model))


def put_in_another(model):
    model.fc1 = nn.Linear(5, 8)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (put_in_another, "'fc1' is no longer the module"),
        (lambda model: model.fc1._forward_hooks.clear(), "its hooks were removed"),
    ],
)
def test_a_layer_that_lost_its_hook_is_not_taken_for_a_skipped_one(change, text):
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", seed=0)
    train_step(mixup, model, example(model))
    change(model)
    with pytest.raises(RuntimeError, match=text):
        model(example(model))
    train_step(ManifoldMixup(model, "fc1", replace=True), model, example(model))


class Calling(nn.Module):
    """Adds what it says of half its input."""

    def __init__(self, how):
        super().__init__()
        self.net, self.how = build("mlp"), how

    def forward(self, x, again=True):
        with self.how():
            more = self(0.5 * x, again=False) if again else 0
        return self.net(x) + more


@pytest.mark.parametrize("how", [contextlib.nullcontext, torch.no_grad])
def test_a_model_that_calls_itself_is_refused_where_it_is_mixed(how):
    model, x = Calling(how), torch.randn(BATCH, 5)
    mixup = ManifoldMixup(model, "input", seed=0)
    with pytest.raises(
        RuntimeError, match=r"called inside its own forward pass.*Attach to the submodule"
    ):
        model(x)
    with mixup.paused():
        plain = model(x)
    torch.testing.assert_close(model.eval()(x), plain)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.cell(self.cell(self.stem(x)).relu()))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(5, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = x.new_zeros(len(x), 8)
        for moment in x.unbind(1):
            h = self.cell(moment, h)
        return self.head(h)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.lstm(x.transpose(0, 1))[0][-1])


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    ("kind", "layer", "shape", "says"),
    [
        (Skipping, "never", (BATCH, 5), "'never'.*(never run|never ran|not run)"),
        (Twice, "cell", (BATCH, 5), "'cell'.*(ran|runs) 2 times"),
        (Recurrent, "cell", (BATCH, 7, 5), "'cell'.*(ran|runs) 7 times"),
        (TimeFirst, "lstm", (BATCH, 7, 5), r"'lstm'.*\(7, 6, 8\)"),
    ],
    ids=["never runs", "runs twice", "recurrent cell", "batch elsewhere"],
)
def test_a_layer_that_cannot_be_mixed_is_refused_with_what_was_seen(
    kind, layer, shape, says, check
):
    model = kind()
    ManifoldMixup(model, layer, check=check)
    with pytest.raises((RuntimeError, ValueError), match=says):
        model(torch.randn(shape))


class LastState(nn.Module):
    """Classifies by ``h_n``, whose dimension 0 counts layers: here as many as rows."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 8, num_layers=BATCH, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        _, (h_n, _) = self.lstm(x)
        return self.head(h_n[-1])


def test_as_many_layers_as_rows_do_not_pass_for_the_batch():
    model = LastState()
    ManifoldMixup(model, "lstm")
    with pytest.raises(ValueError, match=r"'lstm'.*\(6, 6, 8\)"):
        model(torch.randn(BATCH, 7, 5))


def test_a_bypassed_layer_is_refused_on_the_first_training_batch_with_the_nearest_cuts():
    model = build("residual")
    x = example(model)
    mixup = ManifoldMixup(model, ["layer1.0.fc"])
    model.eval()(x)  # not trained yet
    model.train()
    for _ in range(2):  # and again, as long as nothing changes
        with pytest.raises(ValueError, match=r"'layer1.0.fc' is bypassed.*'layer1.0'"):
            model(x)
    assert mixup.state_dict()["step"] == 0
    with pytest.raises(ValueError, match="bypassed"):
        ManifoldMixup(build("residual"), ["layer1.0.fc"], example=x)
    model = build("residual")
    ManifoldMixup(model, ["layer1.0.fc"], check=False, seed=0)
    model(x)  # as told


def test_the_check_changes_nothing():
    model, oracle = build("conv"), build("conv")
    x = example(model)
    with ManifoldMixup(model, "conv2", seed=0).using(plan_at("conv2")):
        pass
    state = torch.get_rng_state()
    ManifoldMixup(oracle, "conv2", check=False, seed=0)
    mixup = ManifoldMixup(model, "conv2", replace=True, seed=0)
    torch.testing.assert_close(model(x), oracle(x), rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), oracle.state_dict(), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert mixup.plan is not None


def test_data_parallel_is_refused():
    with pytest.raises(TypeError, match="DistributedDataParallel"):
        ManifoldMixup(nn.DataParallel(build("mlp")), "fc1")
    model = build("mlp")
    ManifoldMixup(model, "fc1")
    replica = model._replicate_for_data_parallel()
    replica._is_replica = True
    with pytest.raises(TypeError, match="DistributedDataParallel"):
        replica(example(model))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            {"layers": ["layr1"]},
            ValueError,
            r"has no layer 'layr1'.*Did you mean 'layer1'",
        ),
        ({"layers": []}, ValueError, "layers is empty"),
        ({"layers": ["layer?.7"]}, ValueError, "Residual has no layer"),
        (
            {"layers": [nn.Linear(2, 2)]},
            ValueError,
            "Linear was given as a layer, but",
        ),
        ({"layers": [3]}, TypeError, "a layer must be a name or a module"),
        ({"layers": None}, ValueError, "Pass example=x"),
        ({"alpha": 0}, ValueError, "alpha must be above 0"),
        ({"alpha": -1.0}, ValueError, "alpha must be above 0"),
        ({"alpha": float("nan")}, ValueError, "alpha must be above 0"),
        ({"alpha": float("inf")}, ValueError, "alpha must be above 0"),
        ({"alpha": "2"}, TypeError, "alpha must be a number"),
        ({"p": 1.5}, ValueError, "p must be a fraction"),
        ({"p": -0.1}, ValueError, "p must be a fraction"),
    ],
)
def test_bad_arguments_are_refused_before_anything_changes(arguments, error, text):
    model = Residual()
    with pytest.raises(error, match=text):
        ManifoldMixup(model, **{"layers": ["layer1"], **arguments})
    assert hooks_on(model) == 0


def test_a_criterion_is_not_wrapped_twice():
    mixup = ManifoldMixup(build("mlp"), "fc1")
    with pytest.raises(TypeError, match="already wrapped"):
        mixup.wrap(mixup.wrap(nn.CrossEntropyLoss()))


def test_no_model_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        ManifoldMixup(lambda x: x, ["fc1"])


def test_a_bad_alpha_from_a_schedule_is_refused_when_it_comes():
    model = build("mlp")
    mixup = ManifoldMixup(model, "fc1", alpha=lambda step: -1.0)
    with pytest.raises(ValueError, match="alpha must be above 0 and finite, but is -1"):
        model(example(model))
    assert mixup.state_dict()["step"] == 0


def test_token_ids_at_the_input_are_refused():
    model = build("text")
    ManifoldMixup(model, ["input", "embed"])
    with pytest.raises(TypeError, match=r"no input is floating.*torch.int64.*embedding layer"):
        model(example(model))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(5, 8)

    def forward(self, left, right, *, scale=None):
        return self.fc(left) if right is None else self.fc(left) * right.mean()


def test_one_of_several_inputs_must_be_named():
    model = TwoInputs()
    ManifoldMixup(model, ["input"], check=False)
    x = torch.randn(BATCH, 5)
    with pytest.raises(
        ValueError, match=r"is ambiguous: .* has 2 such inputs.*'input:left' or 'input:right'"
    ):
        model(x, x)
    mixup = ManifoldMixup(model, ["input:left"], check=False, replace=True, seed=0)
    output = model(x, right=x)
    torch.testing.assert_close(
        output, model.fc(mixup.plan.lam * x + (1 - mixup.plan.lam) * x[mixup.plan.perm]) * x.mean()
    )
    mixup = ManifoldMixup(model, ["input:middle"], check=False, replace=True)
    with pytest.raises(ValueError, match=r"has no 'input:middle'.*left"):
        model(x, x)


class Masked(nn.Module):
    """Attention pooling by a floating mask, which is read before anything is hidden."""

    def __init__(self):
        super().__init__()
        self.pool, self.head = nn.Identity(), nn.Linear(5, CLASSES)

    def forward(self, x, mask):
        return self.head(self.pool((x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)))


def test_a_floating_mask_is_no_second_data_input():
    model = Masked()
    x, mask = torch.randn(BATCH, 7, 5), (torch.rand(BATCH, 7) > 0.3).float() + 1e-3
    mixup = ManifoldMixup(model, ["pool"], example=(x, mask), seed=0)
    train = mixup.wrap(nn.CrossEntropyLoss())
    train(model(x, mask), TARGET).backward()
    ManifoldMixup(model, ["input"], replace=True)
    with pytest.raises(ValueError, match=r"'input' cannot be mixed alone.*'mask'"):
        model(x, mask)


def test_a_submodule_called_input_is_not_chosen():
    model = nn.Sequential()
    for name, width in (("input", 5), ("middle", 8), ("deep", 8), ("head", 8)):
        model.add_module(name, nn.Linear(width, 8))
    assert ManifoldMixup(model, example=torch.randn(BATCH, 5)).layers == ("input", "middle")


def test_odd_partial_and_single_batches():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    for rows in (7, 5, 2, 1, 1, 1, 1, 3):
        x, y = torch.randn(rows, 5), torch.randint(CLASSES, (rows,))
        output = model(x)
        assert mixup.plan.batch == rows
        loss = criterion(output, y)
        loss.backward()
        if rows == 1:
            torch.testing.assert_close(output, build("mlp")(x))
            torch.testing.assert_close(loss, nn.functional.cross_entropy(output, y))


def test_a_model_in_double_precision_and_a_criterion_that_takes_more():
    model = build("mlp").double()
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x, y = (torch.randn(BATCH, n, dtype=torch.float64) for n in (5, CLASSES))
    w = torch.rand(CLASSES, dtype=torch.float64)

    def weighted(output, target, weight):
        return (weight * (output - target) ** 2).mean()

    output = model(x)
    lam, partner = mixup.plan.lam, y[mixup.plan.perm]
    expected = lam * weighted(output, y, w) + (1 - lam) * weighted(output, partner, w)
    torch.testing.assert_close(mixup.wrap(weighted)(output, y, w), expected)


def test_scripting_says_remove_first():
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting itself is deprecated
        with pytest.raises(RuntimeError, match=r"remove\(\) first"):
            torch.jit.script(model)
        mixup.remove()
        torch.jit.script(model)


def test_export_in_eval_mode_works_and_holds_no_mix():
    model = build("mlp").eval()
    ManifoldMixup(model, LAYERS)
    x = example(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (x,))
    torch.testing.assert_close(exported.module()(x), model(x))
    targets = {str(node.target) for node in exported.graph.nodes}
    assert not any("lerp" in target or "index" in target for target in targets)


@pytest.mark.parametrize(
    "take", [torch.export.export, torch.jit.trace, partial(torch.export.export, strict=True)]
)
@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_export_and_tracing_of_a_model_that_mixes_say_remove_first(take):
    model = build("mlp")
    mixup = ManifoldMixup(model, LAYERS, seed=0)
    x = example(model)
    with pytest.raises(Exception, match=r"remove\(\) first"):
        take(model, (x,))
    mixup.wrap(nn.CrossEntropyLoss())(model(x), TARGET).backward()  # training goes on
    mixup.remove()
    take(model, (x,))


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
