"""What cannot be mixed is refused, before anything changes, with what was seen and the way out."""

import contextlib

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, find_layers, mix
from training import hooks_on
from zoo import BATCH, CLASSES, Residual, Skipping, build, example, plain_mix


class Wavering(nn.Module):
    """A model with a layer that returns different kinds of values for different batches."""

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
    """For example, a layer may return a list with a state for each view of the batch."""
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


def test_a_container_is_refused_with_the_way_out():
    model = build("text")
    ManifoldMixup(model, ["blocks"])
    with pytest.raises(ValueError, match=r"'blocks' did not run.*nn.ModuleList.*its items"):
        model(example(model))


class Calling(nn.Module):
    """Adds its own output for half of its input."""

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
    ],
    ids=["never runs", "runs twice", "recurrent cell"],
)
def test_a_layer_that_cannot_be_mixed_is_refused_with_what_was_seen(
    kind, layer, shape, says, check
):
    model = kind()
    ManifoldMixup(model, layer, check=check)
    with pytest.raises((RuntimeError, ValueError), match=says):
        model(torch.randn(shape))


def test_without_a_check_the_batch_must_be_first():
    model, x = TimeFirst(), torch.randn(BATCH, 7, 5)
    ManifoldMixup(model, "lstm", check=False)
    with pytest.raises(ValueError, match=r"'lstm'.*\(7, 6, 8\).*without check=False"):
        model(x)


class LastState(nn.Module):
    """Classifies by ``h_n``, whose dimension 0 is layers; there are as many layers as rows."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(5, 8, num_layers=BATCH, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        _, (h_n, _) = self.lstm(x)
        return self.head(h_n[-1])


def test_as_many_layers_as_rows_do_not_pass_for_the_batch():
    model, x = LastState(), torch.randn(BATCH, 7, 5)
    mixup = ManifoldMixup(model, "lstm", seed=0)
    output = model(x)
    _, (h_n, _) = model.lstm(x)
    mixup.target(None, output)
    expected = model.head(mix(h_n.transpose(0, 1), mixup.plan)[:, -1])
    torch.testing.assert_close(output, expected)


def test_a_bypassed_layer_is_refused_on_the_first_training_batch_with_the_nearest_cuts():
    model = build("residual")
    x = example(model)
    mixup = ManifoldMixup(model, ["layer1.0.fc"])
    model.eval()(x)  # not trained yet
    model.train()
    for _ in range(2):  # the error is raised again
        with pytest.raises(ValueError, match=r"'layer1.0.fc' is bypassed.*'layer1.0'"):
            model(x)
    assert mixup.state_dict()["step"] == 0
    with pytest.raises(ValueError, match="bypassed"):
        ManifoldMixup(build("residual"), ["layer1.0.fc"], example=x)
    model = build("residual")
    ManifoldMixup(model, ["layer1.0.fc"], check=False, seed=0)
    model(x)  # allowed by check=False


class Direct(nn.Sequential):
    """Runs no hooks, as gpytorch.Module does."""

    def __call__(self, x):
        return self.forward(x)


class Indirect(nn.Sequential):
    """Runs no hooks, as gpytorch's approximate processes do, which only a pass shows."""

    def __call__(self, x):
        return self.compute(x)

    def compute(self, x):
        return self.forward(x)


class Through(Indirect):
    """Runs hooks, however its call is written."""

    def compute(self, x):
        return nn.Module.__call__(self, x)


class InTraining(Through):
    """Runs hooks in training alone."""

    def __call__(self, x):
        if not self.training:
            return self.forward(x)
        return self.compute(x)


class Around(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


def two_layers(kind):
    return kind(nn.Linear(5, 8), nn.Linear(8, CLASSES)), torch.randn(6, 5)


@pytest.mark.parametrize("kind", [Direct, Indirect])
def test_a_model_whose_call_runs_no_hooks_is_refused_with_the_way_out(kind):
    model, x = two_layers(kind)
    text = rf"{kind.__name__} replaces nn.Module.__call__ by one that runs no hooks.* whose forward"
    with pytest.raises(RuntimeError, match=text):
        find_layers(model, x)
    with pytest.raises(RuntimeError, match=text):
        ManifoldMixup(model, ["0"], example=x)
    assert not hooks_on(model)
    assert ManifoldMixup(Around(model), ["model.0"], example=x).verify(x).ok  # the way out


def test_without_an_example_it_is_refused_at_once_if_it_calls_forward():
    model, _ = two_layers(Direct)
    with pytest.raises(RuntimeError, match=r"Direct cannot be mixed: .*Direct replaces"):
        ManifoldMixup(model, ["0"])
    assert not hooks_on(model)


def test_a_layer_whose_call_runs_no_hooks_is_refused_with_the_way_out():
    model = nn.Sequential(Direct(nn.Linear(5, 8)), nn.Linear(8, CLASSES))
    with pytest.raises(
        ValueError, match=r"'0' cannot be mixed: .*Direct replaces .* module inside"
    ):
        ManifoldMixup(model, ["0"])
    x = torch.randn(6, 5)
    assert ManifoldMixup(model, ["0.0"], example=x).verify(x).ok  # the way out


@pytest.mark.parametrize("kind", [Through, InTraining])
def test_a_call_of_its_own_may_run_hooks(kind):
    model, x = two_layers(kind)
    assert find_layers(model, x).default == ("input", "0")
    assert ManifoldMixup(model, ["0"], example=x).verify(x).ok


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
        ({"example": {"num": 1}}, TypeError, r"no argument 'num'.* itself,.*example=\(batch,\)"),
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
