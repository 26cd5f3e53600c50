"""What `evaluate` does with labels, outputs and outliers that do not fit, or are not numbers."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import PARTS, Settings, battery_of, evaluate, unfit
from manifold_mixup.lab.evaluate.calibration import debiased_gap
from manifold_mixup.lab.evaluate.outliers import separation
from manifold_mixup.lab.evaluate.selective import risk_coverage

FOR_VECTORS = (
    "clean", "calibration", "selective", "attacks", "strength", "outliers", "neighbours",
    "interpolation", "confidence", "flatness", "collapse",
)  # fmt: skip
SETTINGS = Settings(layers=("1",), lams=(0.0, 0.5))


@pytest.fixture
def vectors() -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(260, 4, generator=generator)
    y = (x[:, :3] + torch.randn(260, 3, generator=generator)).argmax(1)
    return Data("mine", x[:160], y[:160], x[160:], y[160:], classes=3, eps=0.1, space="units")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


class Changed(nn.Module):
    """A network whose outputs are changed."""

    def __init__(self, net, change):
        super().__init__()
        self.net, self.change = net, change

    def forward(self, x):
        return self.change(self.net(x))


# Labels


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_the_type_of_integer_labels_does_not_matter(dtype, model, vectors):
    own = replace(vectors, y=vectors.y.to(dtype), y_test=vectors.y_test.to(dtype))
    found, expected = (
        evaluate(model, data, battery=FOR_VECTORS, settings=SETTINGS) for data in (own, vectors)
    )
    assert repr(found) == repr(expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda y: y[:-5],
            r"y_test of mine has int64 of shape \(95,\). Expected the class of each input as an "
            r"integer, \(100,\)\.",
        ),
        (lambda y: y[:, None], r"has int64 of shape \(100, 1\)\. Expected the class"),
        (lambda y: torch.eye(3)[y], r"has float32 of shape \(100, 3\)\. Expected the class"),
        (lambda y: y.float(), r"has float32 of shape \(100,\)\. Expected the class"),
        (lambda y: y + 1, r"has classes from 1 to 3, but classes is 3\. Expected 0 to 2\."),
        (lambda y: y - 1, r"has classes from -1 to 1, but classes is 3\. Expected 0 to 2\."),
    ],
)
@pytest.mark.parametrize("part", ["clean", "collapse", "attacks"])
def test_labels_that_are_no_classes_are_named(part, change, message, model, vectors):
    with pytest.raises(ValueError, match=message):
        evaluate(model, replace(vectors, y_test=change(vectors.y_test)), battery=[part])


def test_training_labels_are_checked_too(model, vectors):
    with pytest.raises(ValueError, match=r"^y of mine has classes from 1 to 3, but classes is 3"):
        evaluate(model, replace(vectors, y=vectors.y + 1), battery=["clean"])


def test_soft_training_labels_leave_out_what_needs_classes(model, vectors):
    soft = replace(vectors, y=torch.eye(3)[vectors.y])
    assert set(FOR_VECTORS) - set(battery_of(None, soft)) == {"neighbours", "collapse"}
    assert evaluate(model, soft, battery=["clean"])["clean"][0]["error"] > 0
    with pytest.raises(ValueError, match=r"classes as training labels, but those of mine are soft"):
        evaluate(model, soft, battery=["collapse"])


def test_without_test_examples_nothing_is_evaluated(model, vectors):
    none = replace(vectors, x_test=vectors.x_test[:0], y_test=vectors.y_test[:0])
    with pytest.raises(ValueError, match=r"mine has no test examples\. Expected at least one\."):
        evaluate(model, none, battery=["clean"])


@pytest.mark.parametrize("which", ["training", "test"])
def test_one_class_has_no_collapse(which, model, vectors):
    key = {"training": "y", "test": "y_test"}[which]
    one = replace(vectors, **{key: torch.zeros_like(getattr(vectors, key))})
    assert "collapse" not in battery_of(None, one)
    assert f"all {len(getattr(one, key))} {which} examples of mine are of one" in unfit(
        "collapse", one
    )
    with pytest.raises(ValueError, match=r"several classes, .* of one\. Leave out 'collapse'\."):
        evaluate(model, one, battery=["collapse"])


# Outputs


@pytest.mark.parametrize("part", [part for part in FOR_VECTORS if part != "calibration"])
def test_outputs_that_are_no_logits_are_named_by_every_part(part, model, vectors):
    too_few = Changed(model, lambda z: z[:, :2])
    with pytest.raises(
        ValueError,
        match=r"outputs of Changed for 2 test examples of mine have shape \(2, 2\)\. Expected "
        r"logits, \(2, 3\)",
    ):
        evaluate(too_few, vectors, battery=[part], settings=SETTINGS)
    for change in (lambda z: (z, None), lambda z: {"logits": z}):
        with pytest.raises(TypeError, match=r"Changed returns \w+\. Expected a tensor of logits"):
            evaluate(Changed(model, change), vectors, battery=[part], settings=SETTINGS)


def test_outputs_with_a_position_are_no_logits(model, vectors):
    with pytest.raises(ValueError, match=r"have shape \(2, 3, 1\)\. Expected logits, \(2, 3\)"):
        evaluate(Changed(model, lambda z: z[:, :, None]), vectors, battery=["clean"])


def test_given_outputs_of_other_examples_are_refused(model, vectors):
    with pytest.raises(ValueError, match=r"the given outputs for 100 .* have shape \(99, 3\)"):
        evaluate(model, vectors, battery=["clean"], outputs=torch.randn(99, 3))


def test_outputs_that_are_not_numbers_are_said_and_not_scored(model, vectors):
    def broken(z):
        return torch.cat([torch.full_like(z[:1], math.nan), z[1:]])

    parts = ("clean", "calibration", "selective", "outliers")
    found = evaluate(Changed(model, broken), vectors, battery=parts)
    clean, (before, after), ranked = found["clean"][0], found["calibration"], found["selective"][0]
    for row in (clean, before, ranked, *found["outliers"]):
        assert row["note"].startswith("1 of the 100 test examples have logits that are NaN")
    assert "not finite" in after["note"]
    numbers = [clean["nll"], clean["ece"], before["rms_gap"], before["rms_low"], before["rms_high"]]
    assert all(map(math.isnan, [*numbers, ranked["aurc"], *ranked["risk"]]))
    assert all("confidence" not in row and "distance" not in row for row in found["outliers"])


def test_outliers_alone_without_probabilities_are_said(model, vectors):
    strange = Settings(unknown={"strange": torch.full((7, 4), math.nan)})
    first, *others = evaluate(model, vectors, battery=["outliers"], settings=strange)["outliers"]
    assert first["note"].startswith("7 of the 7 inputs of strange have logits that are NaN")
    assert "confidence" not in first
    assert all("note" not in row and row["confidence"]["auroc"] > 0 for row in others)


def test_minus_infinity_is_a_class_that_is_never_predicted(model, vectors):
    never = torch.tensor([0.0, 0.0, -math.inf])
    two = replace(vectors, y=vectors.y.clamp(max=1), y_test=vectors.y_test.clamp(max=1))
    row = evaluate(Changed(model, lambda z: z + never), two, battery=["clean"])["clean"][0]
    assert "note" not in row
    assert math.isfinite(row["nll"])


def test_numbers_of_nan_are_nan():
    sure, right = torch.tensor([0.9, math.nan, 0.8]), torch.tensor([True, True, False])
    gap, curve = debiased_gap(sure, right), risk_coverage(sure, ~right)
    assert all(map(math.isnan, (gap.rms, gap.low, gap.high, curve.aurc, curve.excess_aurc)))
    apart = separation(sure, torch.tensor([0.1]))
    assert math.isnan(apart.auroc)
    assert math.isnan(apart.fpr95)


@pytest.mark.parametrize("detach", [torch.Tensor.detach, lambda z: z.detach() + 0])
def test_attacks_on_outputs_without_gradients_are_said(detach, model, vectors):
    found = evaluate(Changed(model, detach), vectors, battery=["clean", "attacks", "strength"])
    for row in (*found["attacks"], *found["strength"]):
        assert "the gradient is zero or NaN on" in row["note"]
    unmoved = found["strength"][0]["accuracy"]
    assert unmoved == [100 - found["clean"][0]["error"]] * len(unmoved)


def test_a_gradient_of_nan_moves_nothing(model, vectors):
    def rooted(z):  # the gradient of the root of 0 is infinite, and 0 times that is NaN
        return z + 0 * (0 * z).sqrt()

    found = evaluate(Changed(model, rooted), vectors, battery=["clean", "strength"])
    accuracy = found["strength"][0]["accuracy"]
    assert accuracy == [100 - found["clean"][0]["error"]] * len(accuracy)
    assert "zero or NaN" in found["strength"][0]["note"]


# Outliers


def test_outliers_that_the_model_does_not_take_are_named(model, vectors):
    wide = Settings(unknown={"wide": torch.randn(5, 7)})
    with pytest.raises(
        ValueError,
        match=r"the outliers 'wide' have inputs of shape \(7,\), but those of mine have \(4,\), .* "
        r"Give inputs of the same shape\.",
    ):
        evaluate(model, vectors, battery=["outliers"], settings=wide)
    none = Settings(unknown={"none": torch.randn(0, 4)})
    with pytest.raises(ValueError, match=r"the outliers 'none' have no inputs"):
        evaluate(model, vectors, battery=["outliers"], settings=none)


def test_inputs_and_weights_of_half_precision(model, vectors):
    half = replace(vectors, x=vectors.x.bfloat16(), x_test=vectors.x_test.bfloat16())
    found = evaluate(model.bfloat16(), half, battery=FOR_VECTORS, settings=SETTINGS)
    assert set(FOR_VECTORS) < set(PARTS)
    assert all(found[part] for part in FOR_VECTORS)
