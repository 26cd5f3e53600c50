"""MixedTarget: every kind of target, compared with its closed form or a loop over the rows."""

import functools
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from manifold_mixup import MixedTarget, MixPlan
from states import EACH_KIND, draw, randn
from targets import (
    BATCH,
    CLASSES,
    EACH_SHAPE,
    IGNORE,
    SHAPES,
    WEIGHT,
    Focal,
    assert_same_loss,
    classes_of,
    scores_of,
)

LAST_FIRST = torch.tensor([1, 0])


# Class indices: the losses are interpolated


@EACH_SHAPE
@pytest.mark.parametrize(
    "criterion",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=WEIGHT),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1, reduction="sum"),
        nn.CrossEntropyLoss(reduction="none"),
        nn.NLLLoss(weight=WEIGHT),
        Focal(),
        F.cross_entropy,
        functools.partial(F.cross_entropy, label_smoothing=0.1),
        lambda output, target: F.cross_entropy(output, target).square(),
    ],
    # an address in a name would differ between the processes that run the tests
    ids=lambda criterion: re.sub(r" at 0x\w+", "", str(criterion)),
)
def test_one_lam_mixes_the_losses_of_both_targets(criterion, shape):
    plan, y, output = draw(), classes_of(shape), scores_of(shape)
    expected = plan.lam * criterion(output, y) + (1 - plan.lam) * criterion(output, y[plan.perm])
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


@EACH_SHAPE
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_ignored_positions_count_in_neither_target(weight, shape):
    plan, y, output = draw(), classes_of(shape, ignored=True), scores_of(shape)
    assert (y == IGNORE).any()
    expected = 0.0
    for share, target in ((plan.lam, y), (1 - plan.lam, y[plan.perm])):
        kept = target != IGNORE
        scores = output.movedim(1, -1)[kept]
        expected = expected + share * F.cross_entropy(scores, target[kept], weight=weight)
    criterion = nn.CrossEntropyLoss(weight=weight)
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool], ids=str)
def test_every_integer_type_counts_as_classes(dtype):
    plan, output = draw(), scores_of((BATCH,))
    y = torch.tensor([0, 1, 0, 1, 1, 0], dtype=dtype)
    ours = MixedTarget(y, plan).loss(lambda output, y: F.cross_entropy(output, y.long()), output)
    expected = MixedTarget(y.long(), plan).loss(F.cross_entropy, output)
    torch.testing.assert_close(ours, expected)


# PyTorch's own losses of floating point targets: the targets are interpolated

FLOATING = {
    "soft": (nn.CrossEntropyLoss(), lambda: randn(BATCH, CLASSES, seed=4).softmax(1)),
    "soft, smoothed": (
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda: randn(BATCH, CLASSES, seed=4).softmax(1),
    ),
    "distribution": (
        nn.KLDivLoss(reduction="batchmean"),
        lambda: randn(BATCH, CLASSES, seed=4).softmax(1),
    ),
    "multilabel": (nn.BCEWithLogitsLoss(), lambda: (randn(BATCH, CLASSES, seed=4) > 0).float()),
    "multilabel, weighted": (
        nn.BCEWithLogitsLoss(pos_weight=WEIGHT, reduction="sum"),
        lambda: (randn(BATCH, CLASSES, seed=4) > 0).float(),
    ),
    "squared error": (nn.MSELoss(), lambda: randn(BATCH, CLASSES, seed=4)),
    "absolute error": (nn.L1Loss(), lambda: randn(BATCH, CLASSES, seed=4)),
    "Huber": (nn.HuberLoss(delta=0.5), lambda: randn(BATCH, CLASSES, seed=4)),
    "function": (F.smooth_l1_loss, lambda: randn(BATCH, CLASSES, seed=4)),
    "counts": (nn.PoissonNLLLoss(), lambda: randn(BATCH, CLASSES, seed=4).square()),
    "part of a function": (
        functools.partial(F.l1_loss, reduction="sum"),
        lambda: randn(BATCH, CLASSES, seed=4),
    ),
    "method": (nn.L1Loss().forward, lambda: randn(BATCH, CLASSES, seed=4)),
    "compiled": (
        torch.compile(nn.L1Loss(), backend="eager"),
        lambda: randn(BATCH, CLASSES, seed=4),
    ),
}


@EACH_KIND
@pytest.mark.parametrize("kind", FLOATING)
def test_floating_targets_are_mixed_and_the_loss_is_taken_once(kind, per_sample):
    criterion, target = FLOATING[kind]
    plan, y, output = draw(per_sample=per_sample), target(), scores_of((BATCH,))
    lam = plan.lam[:, None] if per_sample else plan.lam
    expected = criterion(output, lam * y + (1 - lam) * y[plan.perm])
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


def test_whose_targets_are_mixed_is_known_by_exact_type_and_can_be_said():
    class Own(nn.L1Loss):
        """It might treat placeholders specially."""

    replaced = nn.L1Loss()
    replaced.forward = F.l1_loss
    plan, y, output = draw(), randn(BATCH, CLASSES), scores_of((BATCH,))
    mixed = F.l1_loss(output, plan.lam * y + (1 - plan.lam) * y[plan.perm])
    own, partner = F.l1_loss(output, y), F.l1_loss(output, y[plan.perm])
    ends = plan.lam * own + (1 - plan.lam) * partner
    assert not mixed.allclose(ends)
    for criterion in (Own(), replaced, lambda output, y: F.l1_loss(output, y)):
        assert_same_loss(MixedTarget(y, plan).loss(criterion, output), ends, output)
        asked = MixedTarget(y, plan, targets="mix")
        assert_same_loss(asked.loss(criterion, output), mixed, output)
    refused = MixedTarget(y, plan, targets="ends")
    assert_same_loss(refused.loss(nn.L1Loss(), output), ends, output)
    with pytest.raises(ValueError, match="targets must be 'mix', 'ends' or None, but is 'both'"):
        MixedTarget(y, plan, targets="both")


def test_an_unreduced_loss_may_be_masked_outside():
    plan, y, output = draw(), randn(BATCH, CLASSES), scores_of((BATCH,))
    criterion = nn.MSELoss(reduction="none")
    own, partner = criterion(output, y), criterion(output, y[plan.perm])
    expected = plan.lam * own + (1 - plan.lam) * partner
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)
    ours = MixedTarget(y, plan).loss(F.mse_loss, output, reduction="none")
    assert_same_loss(ours, expected, output)


@EACH_KIND
def test_regression_of_one_number(per_sample):
    plan = draw(per_sample=per_sample)
    y, output = randn(BATCH), randn(BATCH, seed=2).requires_grad_()
    expected = ((output - (plan.lam * y + (1 - plan.lam) * y[plan.perm])) ** 2).mean()
    assert_same_loss(MixedTarget(y, plan).loss(nn.MSELoss(), output), expected, output)


@pytest.mark.parametrize("criterion", [nn.L1Loss(), nn.HuberLoss(), nn.MSELoss()], ids=str)
def test_mixing_targets_is_not_mixing_losses(criterion):
    """A prediction halfway between two targets has zero loss, unlike with two losses."""
    plan = MixPlan("layer", torch.tensor(0.5), torch.tensor([1, 0]))
    y, output = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
    assert MixedTarget(y, plan).loss(criterion, output) == 0
    assert plan.lam * criterion(output, y) + (1 - plan.lam) * criterion(output, y.flip(0)) > 0


@given(
    lam=st.floats(0, 1, width=32),
    seed=st.integers(0, 10**6),
    per_sample=st.booleans(),
    shape=st.sampled_from(SHAPES),
)
def test_cross_entropy_of_soft_labels_is_the_mean_of_the_pair(lam, seed, per_sample, shape):
    plan = draw(lam=lam, per_sample=per_sample, seed=seed)
    mixed = MixedTarget(classes_of(shape, seed=seed), plan)
    output, criterion = scores_of(shape, seed=seed), nn.CrossEntropyLoss()
    torch.testing.assert_close(
        criterion(output, mixed.soft(CLASSES)), mixed.loss(criterion, output)
    )


# Several targets


@dataclass
class Labels:
    kind: Tensor
    score: Tensor
    name: None = None


class Pair(NamedTuple):
    kind: Tensor
    score: Tensor


CONTAINERS = {
    "tuple": lambda kind, score: (kind, score),
    "list": lambda kind, score: [kind, score],
    "named tuple": Pair,
    "dict": lambda kind, score: {"kind": kind, "score": score, "boxes": None},
    "ordered dict": lambda kind, score: OrderedDict(kind=kind, score=score),
    "nested": lambda kind, score: {"kind": (kind,), "score": {"of": [score]}},
    "dataclass": Labels,
}


def parts(target):
    leaves = torch.utils._pytree.tree_leaves(vars(target) if isinstance(target, Labels) else target)
    return [leaf for leaf in leaves if leaf is not None]


@EACH_KIND
@pytest.mark.parametrize("container", CONTAINERS)
def test_several_targets_are_one(container, per_sample):
    plan = draw(per_sample=per_sample)
    kind, score = classes_of((BATCH,)), randn(BATCH)
    output = scores_of((BATCH,))
    wrapped = CONTAINERS[container](kind, score)
    targets = []

    def criterion(output, target, reduction="mean"):
        targets.append(target)
        classes, number = parts(target)
        losses = F.cross_entropy(output, classes, reduction="none") + (output[:, 0] - number) ** 2
        return losses if reduction == "none" else losses.mean()

    own, partner = (
        F.cross_entropy(output, kind[rows], reduction="none") + (output[:, 0] - score[rows]) ** 2
        for rows in (torch.arange(BATCH), plan.perm)
    )
    expected = (plan.lam * own + (1 - plan.lam) * partner).mean()
    assert_same_loss(MixedTarget(wrapped, plan).loss(criterion, output), expected, output)
    assert {type(target) for target in targets} == {type(wrapped)}
    # the caller's objects are unchanged
    assert [id(part) for part in parts(wrapped)] == [id(kind), id(score)]


def test_several_losses_from_one_criterion():
    plan, y, output = draw(), classes_of((BATCH,)), scores_of((BATCH,))

    def criterion(output, y):
        loss = {"mean": F.cross_entropy(output, y), "right": (output.argmax(1) == y).sum()}
        return loss if y[0] == first else dict(reversed(loss.items()))  # in any order

    first = y[0]
    mixed = MixedTarget(y, plan).loss(criterion, output)
    lam, partner = plan.lam, y[plan.perm]
    assert list(mixed) == ["mean", "right"]
    torch.testing.assert_close(
        mixed["mean"],
        lam * criterion(output, y)["mean"] + (1 - lam) * F.cross_entropy(output, partner),
    )
    right = [(output.argmax(1) == target).sum() for target in (y, partner)]
    torch.testing.assert_close(mixed["right"], lam * right[0] + (1 - lam) * right[1])


@pytest.mark.parametrize(
    "criterion",
    [
        lambda output, y: F.cross_entropy(output, y).item(),
        lambda output, y: None,
        lambda output, y: {int(y[0]): F.cross_entropy(output, y)},
    ],
)
def test_losses_that_cannot_be_mixed_are_refused(criterion):
    y = torch.arange(BATCH) % CLASSES
    plan = MixPlan("layer", torch.tensor(0.3), torch.arange(BATCH).roll(2))
    with pytest.raises(TypeError, match=r"criterion must return a tensor, or the same set"):
        MixedTarget(y, plan).loss(criterion, scores_of((BATCH,)))


def test_a_number_beside_the_loss_has_to_be_that_of_every_target():
    y, plan, output = (
        torch.tensor([0, 1]),
        MixPlan("layer", torch.tensor(0.3), LAST_FIRST),
        randn(2),
    )
    loss = MixedTarget(y, plan).loss(lambda output, y: ((output * y).sum(), len(y), "sum"), output)
    torch.testing.assert_close(loss[0], 0.3 * output[1] + 0.7 * output[0])
    assert loss[1:] == (2, "sum")
    with pytest.raises(TypeError, match=r"number 1 at 'of' for the targets and 0 for.*\.item\(\)"):
        MixedTarget(y, plan).loss(
            lambda output, y: {"loss": (output * y).sum(), "of": y[1].item()}, output
        )


def test_lam_is_not_rounded_with_a_half_loss():
    """The state uses λ = 1 - 2⁻¹²; rounding it to bfloat16 in the loss would give 1."""
    plan = MixPlan("layer", torch.tensor(1 - 2**-12), torch.tensor([1, 0]))
    table = torch.tensor([0.0, 1024.0], dtype=torch.bfloat16)
    loss = MixedTarget(torch.tensor([0, 1]), plan).loss(lambda output, y: table[y], None)
    assert loss.dtype == torch.bfloat16
    assert loss[0].item() == 0.25
    assert loss[1].item() == pytest.approx(1024, rel=2**-8)


# Arguments that are passed on, and errors


def test_without_a_plan_the_criterion_sees_what_was_given():
    y, output = {"anything": ["at", "all"]}, object()
    loss = MixedTarget(y, None).loss(lambda *args, **options: (args, options), output, 1, two=2)
    assert loss == ((output, y, 1), {"two": 2})
    assert loss[0][1] is y
    classes, scores = classes_of((BATCH,)), scores_of((BATCH,))
    mixed = MixedTarget(classes, None)
    assert mixed.loss(F.cross_entropy, scores) == F.cross_entropy(scores, classes)
    assert torch.equal(mixed.soft(CLASSES), F.one_hot(classes, CLASSES).float())


def test_a_missing_target_is_passed_on():
    assert MixedTarget(None, draw()).loss(lambda output, y: (output, y), 1) == (1, None)
    plan, y = draw(), classes_of((BATCH,))
    seen = ([],)  # a list in a tuple is left alone

    def criterion(output, target):
        seen[0].append(target["mask"])
        return F.cross_entropy(output, target["y"])

    MixedTarget({"y": y, "mask": None}, plan).loss(criterion, scores_of((BATCH,)))
    assert seen[0] == [None, None]


@pytest.mark.parametrize(
    ("y", "error", "says"),
    [
        (
            torch.zeros(4),
            ValueError,
            r"mixed 6 examples, but the target has shape \(4,\).*mixup.paused",
        ),
        (torch.zeros(3), ValueError, r"a mean over .* mixup.using\(mixup.plan\)"),
        (torch.zeros(8, 6), ValueError, r"a row for each object.*target, torch.arange\(6\); ins"),
        (
            [{"boxes": torch.zeros(2, 4)}] * BATCH,
            ValueError,
            r"'0.boxes' has .*torch.arange\(6\)\)",
        ),
        ([{"label": "cat"}] * BATCH, TypeError, r"'0.label' is a str.*torch.arange\(6\)\)"),
        (torch.zeros(()), ValueError, r"the target has shape \(\)"),
        (torch.zeros(BATCH * 7), ValueError, r"shape \(42,\).*flatten tokens or pixels inside"),
        ({"a": (torch.zeros(BATCH), torch.zeros(2))}, ValueError, r"target 'a.1' has shape \(2,\)"),
        ([1, 2, 3, 4, 5, 6], TypeError, "target '0' is a int, .*tensors.*torch.tensor"),
        (np.zeros(BATCH), TypeError, "the target is a ndarray"),
        (["cat"] * BATCH, TypeError, "target '0' is a str.*a further argument"),
        ({"y": torch.zeros(BATCH), "n": 3.0}, TypeError, "target 'n' is a float"),
    ],
)
def test_what_is_no_target_is_refused(y, error, says):
    with pytest.raises(error, match=says):
        MixedTarget(y, draw())


# Nested tensors


def test_a_nested_target_is_taken_by_rows():
    lengths = [2, 1, 3]
    y = torch.nested.nested_tensor([torch.randn(n) for n in lengths], layout=torch.jagged)
    output, plan = torch.randn(3, 3), MixPlan("layer", 0.3, torch.tensor([1, 2, 0]))

    def of_known(output, target):
        return sum((o[: len(t)] - t).square().mean() for o, t in zip(output, target, strict=True))

    def by_nested(output, target):
        return of_known(output, target.unbind())

    rows = y.unbind()
    partner = of_known(output, [rows[1], rows[2], rows[0]])
    by_hand = 0.3 * of_known(output, rows) + 0.7 * partner
    assert MixedTarget(y, plan).loss(by_nested, output).allclose(by_hand)
