"""Soft labels and accuracy of mixed targets, against loops over rows and closed forms."""

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as reference

from manifold_mixup import MixedTarget, MixPlan, mix
from states import EACH_KIND, draw, randn
from targets import BATCH, CLASSES, EACH_SHAPE, IGNORE, classes_of, scores_of

# Soft labels


@EACH_KIND
@EACH_SHAPE
def test_soft_labels_of_classes(shape, per_sample):
    plan, y = draw(per_sample=per_sample), classes_of(shape)
    soft = MixedTarget(y, plan).soft(CLASSES)
    assert soft.shape == (BATCH, CLASSES, *shape[1:])
    assert soft.dtype == torch.float32
    for i, j in enumerate(plan.perm.tolist()):
        lam = plan.lam[i] if per_sample else plan.lam
        for c in range(CLASSES):
            expected = lam * (y[i] == c) + (1 - lam) * (y[j] == c)
            torch.testing.assert_close(soft[i, c], expected)


@EACH_KIND
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_soft_labels_of_floating_targets_are_their_mix(dtype, per_sample):
    plan, y = draw(per_sample=per_sample), randn(BATCH, CLASSES).softmax(1).to(dtype)
    assert torch.equal(MixedTarget(y, plan).soft(CLASSES), mix(y, plan))


def test_soft_labels_that_cannot_be_had():
    with pytest.raises(
        ValueError, match="classes from 0 to 4, but the target has values from -100 to 4"
    ):
        MixedTarget(torch.tensor([-100, 4]), draw(batch=2)).soft(CLASSES)
    with pytest.raises(
        ValueError, match="classes from 0 to 4, but the target has values from 0 to 5"
    ):
        MixedTarget(torch.tensor([0, 5]), None).soft(CLASSES)
    pair = MixedTarget((torch.zeros(2), torch.zeros(2)), draw(batch=2))
    with pytest.raises(TypeError, match=r"soft needs a single tensor.*a tuple.*y\[...\]"):
        pair.soft(CLASSES)


# Accuracy


def accuracy_by_rows(output, y, plan, ignored=IGNORE):
    """Weight the hits of both targets by λ, at every position."""
    hits = counts = 0.0
    predicted = output.argmax(1)
    for i, j in enumerate(plan.perm.tolist()):
        lam = float(plan.lam[i] if plan.lam.ndim else plan.lam)
        for share, target in ((lam, y[i]), (1 - lam, y[j])):
            kept = target != ignored
            hits += share * int(((predicted[i] == target) & kept).sum())
            counts += share * int(kept.sum())
    return torch.tensor(hits / counts)


@EACH_KIND
@EACH_SHAPE
@pytest.mark.parametrize("ignored", [False, True], ids=["", "ignoring"])
def test_accuracy_weighs_both_targets(ignored, shape, per_sample):
    plan, y, output = (
        draw(per_sample=per_sample),
        classes_of(shape, ignored=ignored),
        scores_of(shape),
    )
    ours = MixedTarget(y, plan).accuracy(output)
    assert ours.shape == ()
    torch.testing.assert_close(ours, accuracy_by_rows(output, y, plan))
    other = MixedTarget(y.where(y != IGNORE, 9), plan).accuracy(output, ignore_index=9)
    torch.testing.assert_close(other, ours)
    # a class that the model can predict, such as padding
    padded = classes_of(shape)
    ours = MixedTarget(padded, plan).accuracy(output, ignore_index=1)
    torch.testing.assert_close(ours, accuracy_by_rows(output, padded, plan, 1))


def test_accuracy_of_what_each_prediction_can_be():
    plan = MixPlan("layer", torch.tensor([0.75, 0.6, 0.5, 0.5]), torch.tensor([1, 0, 3, 2]))
    y = torch.tensor([0, 1, 2, 2])
    own, partner, neither = (
        F.one_hot(c, 4).float() for c in (y, y[plan.perm], torch.full((4,), 3))
    )
    mixed = MixedTarget(y, plan)
    torch.testing.assert_close(mixed.accuracy(own), torch.tensor((0.75 + 0.6 + 1 + 1) / 4))
    torch.testing.assert_close(mixed.accuracy(partner), torch.tensor((0.25 + 0.4 + 1 + 1) / 4))
    assert mixed.accuracy(neither) == 0


@EACH_SHAPE
def test_accuracy_without_mixing_is_the_usual_one(shape):
    y, output = classes_of(shape, ignored=True), scores_of(shape)
    expected = reference.multiclass_accuracy(
        output, y, CLASSES, average="micro", ignore_index=IGNORE
    )
    torch.testing.assert_close(MixedTarget(y, None).accuracy(output), expected)
    whole = MixPlan("layer", torch.tensor(1.0), torch.randperm(BATCH))
    torch.testing.assert_close(MixedTarget(y, whole).accuracy(output), expected)


@EACH_KIND
def test_accuracy_of_soft_labels_is_that_of_their_classes(per_sample):
    plan, y, output = draw(per_sample=per_sample), classes_of((BATCH, 4)), scores_of((BATCH, 4))
    soft = MixedTarget(y, None).soft(CLASSES) * 0.9 + 0.1 / CLASSES
    torch.testing.assert_close(
        MixedTarget(soft, plan).accuracy(output), MixedTarget(y, plan).accuracy(output)
    )


@pytest.mark.parametrize(
    ("y", "output"),
    [
        (torch.zeros(BATCH, dtype=torch.long), torch.zeros(BATCH)),
        (torch.zeros(BATCH, dtype=torch.long), torch.zeros(BATCH, CLASSES, 2)),
        (torch.zeros(BATCH, 2, dtype=torch.long), torch.zeros(BATCH, CLASSES)),
        (torch.zeros(BATCH), torch.zeros(BATCH, CLASSES)),
        (torch.zeros(BATCH), torch.zeros(BATCH)),
        (torch.zeros(BATCH, 2), torch.zeros(BATCH, CLASSES)),
        (
            torch.zeros(BATCH, 1),
            torch.zeros(BATCH, 1),
        ),  # with a single class, the prediction is always right
    ],
    ids=["no classes", "more positions", "fewer", "numbers", "regression", "other classes", "one"],
)
def test_accuracy_needs_scores_and_classes(y, output):
    with pytest.raises(ValueError, match=r"scores \(batch, classes.*output has shape.*the target"):
        MixedTarget(y, draw()).accuracy(output)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.tensor([0, 1, -1, 2]), "classes must be from 0 to 2, or -100, .*from -1 to 2"),
        (torch.tensor([0, 1, 255, 2]), "from 0 to 255.*ignore_index"),
        (torch.tensor([0, 1, 2, 2]).neg().exp()[:, None] - torch.ones(4, 3), "logarithms"),
        (torch.tensor([[1.0, -1, -1]] * 4), "values from -1 to 1"),
        (torch.tensor([[1.0, 0, 1]] * 4), "Multi-label targets"),
        (torch.zeros(4, 3), "needs one most likely class"),
        (torch.tensor([[1.0, 0, torch.nan]] * 4), "missing values"),
    ],
)
def test_accuracy_that_makes_no_sense_is_refused(y, says):
    with pytest.raises(ValueError, match=says):
        MixedTarget(y, draw(batch=4)).accuracy(torch.randn(4, 3))


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.tensor([[0.1, 0.9], [0.4, 0.6]]).log(), "be between 0 and 1, but .* from -2.303"),
        (torch.tensor([[1.0, -1], [-1, 1]]), "signs"),
        (torch.tensor([[1.0, 255], [0, 1]]), "from 0 to 255"),
        (torch.tensor([[1.0, torch.nan], [0, 1]]), "NaN, which cannot be averaged"),
        (torch.tensor([0.0, 1.0]), r"of 2 classes must have shape \(batch, 2.*y.long\(\)"),
        (torch.tensor([[0.0], [1.0]]), r"the target has shape \(2, 1\)"),
    ],
    ids=["logarithms", "signs", "placeholder", "missing", "class ids", "label maps"],
)
def test_soft_labels_that_make_no_sense_are_refused(y, says):
    plan = draw(batch=2)
    with pytest.raises(ValueError, match=says):
        MixedTarget(y, plan).soft(2)
    if not y.isnan().any():  # where it is defined
        assert torch.equal(MixedTarget(y, plan, targets="mix").soft(2), mix(y, plan))
    with pytest.raises(TypeError, match="targets='ends'"):
        MixedTarget(y, plan, targets="ends").soft(2)


def test_accuracy_needs_one_target():
    with pytest.raises(
        TypeError, match="accuracy needs a single tensor of targets, but got a dict"
    ):
        MixedTarget({"y": torch.zeros(BATCH)}, draw()).accuracy(torch.zeros(BATCH, 2))
