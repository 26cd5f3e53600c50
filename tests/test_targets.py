"""MixedTarget: every kind of target against its closed form, or against a loop over the rows."""

import functools
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as reference
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from manifold_mixup import MixedTarget, MixPlan, mix

BATCH, CLASSES = 6, 5
IGNORE = -100
SHAPES = [(BATCH,), (BATCH, 4), (BATCH, 3, 2)]
LAST_FIRST = torch.tensor([1, 0])
EACH_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=["classes", "tokens", "masks"])
EACH_KIND = pytest.mark.parametrize("per_sample", [False, True], ids=["scalar", "per_sample"])


def randn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def plan_of(*, per_sample=False, batch=BATCH, seed=0, lam=None):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(batch, generator=generator)
    perm = torch.randperm(batch, generator=generator)
    if lam is not None:
        drawn = torch.full((batch,), lam)
    return MixPlan("layer", drawn if per_sample else drawn[0], perm)


def classes_of(shape, *, seed=2, ignored=False):
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, shape, generator=generator)
    if ignored:
        y = torch.where(torch.rand(shape, generator=generator) < 0.3, IGNORE, y)
    return y


def scores_of(shape, *, seed=3):
    """Return (batch, classes, *positions)."""
    return randn(shape[0], CLASSES, *shape[1:], seed=seed).requires_grad_()


def assert_same_loss(ours, expected, output):
    torch.testing.assert_close(ours, expected)
    grads = [
        torch.autograd.grad(loss.sum(), output, retain_graph=True) for loss in (ours, expected)
    ]
    torch.testing.assert_close(*grads)


class Argument(nn.Module):
    """A criterion that is told how to reduce when it is called."""

    def forward(self, output, target, reduction="mean"):
        return F.cross_entropy(output, target, weight=WEIGHT, reduction=reduction)


@dataclass(frozen=True)
class Unchanging:
    """A criterion whose attributes cannot be set."""

    reduction: str = "mean"

    def __call__(self, output, target):
        return F.cross_entropy(output, target, weight=WEIGHT, reduction=self.reduction)


class Focal(nn.Module):
    """A criterion of a user, with a reduction of the usual kind."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, output, target):
        nll = F.cross_entropy(output, target, reduction="none")
        focal = (1 - torch.exp(-nll)) ** 2 * nll
        return {"mean": focal.mean, "sum": focal.sum, "none": lambda: focal}[self.reduction]()


# Class indices: the losses are interpolated

WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0])


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
    plan, y, output = plan_of(), classes_of(shape), scores_of(shape)
    expected = plan.lam * criterion(output, y) + (1 - plan.lam) * criterion(output, y[plan.perm])
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


@EACH_SHAPE
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["", "weighted"])
def test_ignored_positions_count_in_neither_target(weight, shape):
    plan, y, output = plan_of(), classes_of(shape, ignored=True), scores_of(shape)
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
    plan, output = plan_of(), scores_of((BATCH,))
    y = torch.tensor([0, 1, 0, 1, 1, 0], dtype=dtype)
    ours = MixedTarget(y, plan).loss(lambda output, y: F.cross_entropy(output, y.long()), output)
    expected = MixedTarget(y.long(), plan).loss(F.cross_entropy, output)
    torch.testing.assert_close(ours, expected)


# A λ per sample


REDUCED = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
OPTIONS = {
    "plain": {},
    "weighted": {"weight": WEIGHT},
    "smoothed": {"label_smoothing": 0.2},
    "all": {"weight": WEIGHT, "label_smoothing": 0.2, "ignore_index": 1},
}


def row_by_row(output, y, plan, reduction, **options):
    """Interpolate the losses of each row on its own; divide by what the plain mean divides by."""
    rows = []
    for i, j in enumerate(plan.perm.tolist()):
        one, own, partner = output[i : i + 1], y[i : i + 1], y[j : j + 1]
        lam = plan.lam[i]
        loss = functools.partial(F.cross_entropy, one, reduction="none", **options)
        rows.append(lam * loss(own) + (1 - lam) * loss(partner))
    losses = torch.cat(rows)
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    kept = y[y != options.get("ignore_index", IGNORE)]
    weight = options.get("weight")
    return losses.sum() / (len(kept) if weight is None else weight[kept].sum())


@EACH_SHAPE
@REDUCED
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_lam_per_sample_is_a_loss_per_row(options, reduction, shape):
    plan, output = plan_of(per_sample=True), scores_of(shape)
    y = classes_of(shape, ignored="ignore_index" not in options)
    expected = row_by_row(output, y, plan, reduction, **options)
    criterion = nn.CrossEntropyLoss(**options, reduction=reduction)
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)
    assert criterion.reduction == reduction
    function = functools.partial(F.cross_entropy, **options, reduction=reduction)
    assert_same_loss(MixedTarget(y, plan).loss(function, output), expected, output)


CRITERIA = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT),
    "smoothed": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1),
    "ignoring": nn.CrossEntropyLoss(ignore_index=1),
    "sum": nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum"),
    "none": nn.CrossEntropyLoss(reduction="none"),
    "nll": nn.NLLLoss(),
    "margin": nn.MultiMarginLoss(),
    "counts": lambda output, y, reduction="mean": F.poisson_nll_loss(
        output[:, 0], y, reduction=reduction
    ),
    "focal": Focal(),
    "argument": Argument(),
    "argument given": functools.partial(Argument(), reduction="sum"),
    "argument unreduced": functools.partial(Argument(), reduction="none"),
    "frozen": Unchanging(),
    "function": F.cross_entropy,
    "partial": functools.partial(F.cross_entropy, reduction="sum"),
    "partial unreduced": functools.partial(F.cross_entropy, reduction="none"),
    "unreduced": lambda output, y: F.cross_entropy(output, y, reduction="none"),
    "compiled": torch.compile(nn.CrossEntropyLoss(weight=WEIGHT), backend="eager"),
    "compiled function": torch.compile(F.cross_entropy, backend="eager"),
}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA)
def test_equal_lams_give_the_loss_of_one_lam(criterion):
    y, output = classes_of((BATCH,)), scores_of((BATCH,))
    one, each = plan_of(lam=0.3), plan_of(lam=0.3, per_sample=True)
    before = getattr(criterion, "reduction", None)
    expected = MixedTarget(y, one).loss(criterion, output)
    assert_same_loss(MixedTarget(y, each).loss(criterion, output), expected, output)
    assert getattr(criterion, "reduction", None) == before


def test_what_belongs_to_a_target_goes_with_it():
    """Of an alignment the lengths of the labels."""
    output = randn(9, BATCH, CLASSES).requires_grad_()
    y = 1 + classes_of((BATCH, 3)) % (CLASSES - 1), torch.tensor([1, 3, 2, 3, 1, 2])

    def criterion(output, target, reduction="sum"):
        labels, lengths = target
        steps = torch.full((BATCH,), 9)
        return F.ctc_loss(output.log_softmax(-1), labels, steps, lengths, reduction=reduction)

    for plan in (plan_of(), plan_of(per_sample=True)):
        own, partner = criterion(output, y, "none"), [part[plan.perm] for part in y]
        expected = (plan.lam * own + (1 - plan.lam) * criterion(output, partner, "none")).sum()
        assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_rows_that_are_right_for_certain_do_not_hide_the_denominator(reduction):
    """A loss of exactly 0 says nothing about what it was divided by; that of the partners does."""
    plan, y = plan_of(per_sample=True), torch.arange(BATCH) % CLASSES
    output = (200.0 * F.one_hot(y, CLASSES)).requires_grad_()
    assert F.cross_entropy(output, y) == 0
    criterion = nn.CrossEntropyLoss(weight=WEIGHT, reduction=reduction)
    expected = row_by_row(output, y, plan, reduction, weight=WEIGHT)
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


def test_where_all_is_ignored_the_mean_is_that_of_the_plain_loss():
    y, output = torch.full((BATCH,), IGNORE), scores_of((BATCH,))
    mixed = MixedTarget(y, plan_of(per_sample=True))
    assert mixed.loss(nn.CrossEntropyLoss(), output).isnan()  # as the plain one
    assert mixed.loss(nn.CrossEntropyLoss(reduction="sum"), output) == 0


def test_a_large_half_loss_does_not_overflow():
    """The sum of 240,000 losses is beyond float16, their mean is not."""
    y, output = classes_of((BATCH, 200, 200)), 20 * randn(BATCH, CLASSES, 200, 200)
    mixed = MixedTarget(y, plan_of(per_sample=True))
    half = mixed.loss(Focal(), output.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), mixed.loss(Focal(), output), rtol=5e-3, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_reduction_among_the_options(reduction):
    plan, y, output = plan_of(per_sample=True), classes_of((BATCH,)), scores_of((BATCH,))
    mixed, expected = MixedTarget(y, plan), row_by_row(output, y, plan, reduction, weight=WEIGHT)
    ours = mixed.loss(F.cross_entropy, output, reduction=reduction, weight=WEIGHT)
    assert_same_loss(ours, expected, output)
    assert_same_loss(mixed.loss(Argument(), output, reduction=reduction), expected, output)


class Dice(nn.Module):
    def forward(self, output, target):
        return 1 - output.softmax(1).gather(1, target[:, None]).mean()


class Deaf(nn.Module):
    """Has a reduction, and does not follow it."""

    reduction = "mean"

    def forward(self, output, target):
        return F.cross_entropy(output, target)


class Computed(Deaf):
    """Has a reduction that cannot be set."""

    reduction = property(lambda self: "mean")


def as_dict(output, target):
    return {"loss": F.cross_entropy(output, target)}


@pytest.mark.parametrize(
    ("criterion", "says"),
    [
        (Dice(), r"6 examples, but Dice returned shape \(\)"),
        (Deaf(), r"Deaf returned shape \(\)"),
        (Computed(), r"Computed returned shape \(\)"),
        (lambda output, y: F.cross_entropy(output, y), r"<lambda> returned shape \(\)"),
        (as_dict, "as_dict returned dict"),
        (lambda output, y: F.cross_entropy(output, y, reduction="none")[:4], r"shape \(4,\)"),
    ],
)
def test_criteria_without_a_loss_per_sample_are_refused_by_name(criterion, says):
    y, output = classes_of((BATCH,)), scores_of((BATCH,))
    with pytest.raises(TypeError, match=f"{says}.*'none'.*per_sample=False"):
        MixedTarget(y, plan_of(per_sample=True)).loss(criterion, output)
    MixedTarget(y, plan_of()).loss(criterion, output)  # one λ does not need it


def test_a_builtin_criterion_does_not_tell_its_arguments():
    plan, y, output = plan_of(per_sample=True), classes_of((BATCH,)), scores_of((BATCH,))
    builtin = torch._C._nn.nll_loss  # which does not reduce unless told
    ours = MixedTarget(y, plan).loss(builtin, output.log_softmax(1))
    torch.testing.assert_close(ours, row_by_row(output, y, plan, "none"))


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
    plan, y, output = plan_of(per_sample=per_sample), target(), scores_of((BATCH,))
    lam = plan.lam[:, None] if per_sample else plan.lam
    expected = criterion(output, lam * y + (1 - lam) * y[plan.perm])
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


def test_whose_targets_are_mixed_is_known_by_exact_type_and_can_be_said():
    class Own(nn.L1Loss):
        """It may look for placeholders."""

    replaced = nn.L1Loss()
    replaced.forward = F.l1_loss
    plan, y, output = plan_of(), randn(BATCH, CLASSES), scores_of((BATCH,))
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
    plan, y, output = plan_of(), randn(BATCH, CLASSES), scores_of((BATCH,))
    criterion = nn.MSELoss(reduction="none")
    own, partner = criterion(output, y), criterion(output, y[plan.perm])
    expected = plan.lam * own + (1 - plan.lam) * partner
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)
    ours = MixedTarget(y, plan).loss(F.mse_loss, output, reduction="none")
    assert_same_loss(ours, expected, output)


@EACH_KIND
def test_regression_of_one_number(per_sample):
    plan = plan_of(per_sample=per_sample)
    y, output = randn(BATCH), randn(BATCH, seed=2).requires_grad_()
    expected = ((output - (plan.lam * y + (1 - plan.lam) * y[plan.perm])) ** 2).mean()
    assert_same_loss(MixedTarget(y, plan).loss(nn.MSELoss(), output), expected, output)


@pytest.mark.parametrize("criterion", [nn.L1Loss(), nn.HuberLoss(), nn.MSELoss()], ids=str)
def test_mixing_targets_is_not_mixing_losses(criterion):
    """A prediction halfway between two targets is right, where two losses would pull at it."""
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
    plan = plan_of(lam=lam, per_sample=per_sample, seed=seed)
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
    plan = plan_of(per_sample=per_sample)
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
    # what the caller holds is as it was
    assert [id(part) for part in parts(wrapped)] == [id(kind), id(score)]


def test_several_losses_from_one_criterion():
    plan, y, output = plan_of(), classes_of((BATCH,)), scores_of((BATCH,))

    def criterion(output, y):
        loss = {"mean": F.cross_entropy(output, y), "right": (output.argmax(1) == y).sum()}
        return loss if y[0] == first else dict(reversed(loss.items()))  # whatever their order

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
    """The state keeps λ = 1 - 2⁻¹²; a loss in bfloat16 that rounds it to 1 would not."""
    plan = MixPlan("layer", torch.tensor(1 - 2**-12), torch.tensor([1, 0]))
    table = torch.tensor([0.0, 1024.0], dtype=torch.bfloat16)
    loss = MixedTarget(torch.tensor([0, 1]), plan).loss(lambda output, y: table[y], None)
    assert loss.dtype == torch.bfloat16
    assert loss[0].item() == 0.25
    assert loss[1].item() == pytest.approx(1024, rel=2**-8)


# What is passed on, and what is refused


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
    assert MixedTarget(None, plan_of()).loss(lambda output, y: (output, y), 1) == (1, None)
    plan, y = plan_of(), classes_of((BATCH,))
    seen = []

    def criterion(output, target):
        seen.append(target["mask"])
        return F.cross_entropy(output, target["y"])

    MixedTarget({"y": y, "mask": None}, plan).loss(criterion, scores_of((BATCH,)))
    assert seen == [None, None]


@pytest.mark.parametrize(
    ("y", "error", "says"),
    [
        (torch.zeros(4), ValueError, r"mixed 6 examples, but the target has shape \(4,\)"),
        (torch.zeros(()), ValueError, r"the target has shape \(\)"),
        (torch.zeros(BATCH * 7), ValueError, r"shape \(42,\).*flatten tokens or pixels inside"),
        ({"a": (torch.zeros(BATCH), torch.zeros(2))}, ValueError, r"target 'a.1' has shape \(2,\)"),
        ([1, 2, 3, 4, 5, 6], TypeError, "target '0' is a int, which cannot be mixed.*tensors"),
        (np.zeros(BATCH), TypeError, "the target is a ndarray"),
        (["cat"] * BATCH, TypeError, "target '0' is a str.*a further argument"),
        ({"y": torch.zeros(BATCH), "n": 3.0}, TypeError, "target 'n' is a float"),
    ],
)
def test_what_is_no_target_is_refused(y, error, says):
    with pytest.raises(error, match=says):
        MixedTarget(y, plan_of())


# Soft labels


@EACH_KIND
@EACH_SHAPE
def test_soft_labels_of_classes(shape, per_sample):
    plan, y = plan_of(per_sample=per_sample), classes_of(shape)
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
    plan, y = plan_of(per_sample=per_sample), randn(BATCH, CLASSES).softmax(1).to(dtype)
    assert torch.equal(MixedTarget(y, plan).soft(CLASSES), mix(y, plan))


def test_soft_labels_that_cannot_be_had():
    with pytest.raises(
        ValueError, match="classes in 0 to 4, but the target has values from -100 to 4"
    ):
        MixedTarget(torch.tensor([-100, 4]), plan_of(batch=2)).soft(CLASSES)
    with pytest.raises(
        ValueError, match="classes in 0 to 4, but the target has values from 0 to 5"
    ):
        MixedTarget(torch.tensor([0, 5]), None).soft(CLASSES)
    pair = MixedTarget((torch.zeros(2), torch.zeros(2)), plan_of(batch=2))
    with pytest.raises(TypeError, match=r"soft needs a single tensor.*a tuple.*y\[...\]"):
        pair.soft(CLASSES)


# Accuracy


def accuracy_by_rows(output, y, plan, ignored=IGNORE):
    """Weigh the hits of both targets by λ, position by position."""
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
        plan_of(per_sample=per_sample),
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
    plan, y, output = plan_of(per_sample=per_sample), classes_of((BATCH, 4)), scores_of((BATCH, 4))
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
        (torch.zeros(BATCH, 1), torch.zeros(BATCH, 1)),  # the likeliest of one is always right
    ],
    ids=["no classes", "more positions", "fewer", "numbers", "regression", "other classes", "one"],
)
def test_accuracy_needs_scores_and_classes(y, output):
    with pytest.raises(ValueError, match=r"scores \(batch, classes.*output has shape.*the target"):
        MixedTarget(y, plan_of()).accuracy(output)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.tensor([0, 1, -1, 2]), "classes must lie in 0 to 2 or be -100, .*from -1 to 2"),
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
        MixedTarget(y, plan_of(batch=4)).accuracy(torch.randn(4, 3))


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (torch.tensor([[0.1, 0.9], [0.4, 0.6]]).log(), "lie in 0 to 1, but .* from -2.303"),
        (torch.tensor([[1.0, -1], [-1, 1]]), "signs"),
        (torch.tensor([[1.0, 255], [0, 1]]), "from 0 to 255"),
        (torch.tensor([[1.0, torch.nan], [0, 1]]), "NaN, which cannot be averaged"),
        (torch.tensor([0.0, 1.0]), r"of 2 classes must have shape \(batch, 2.*y.long\(\)"),
        (torch.tensor([[0.0], [1.0]]), r"the target has shape \(2, 1\)"),
    ],
    ids=["logarithms", "signs", "placeholder", "missing", "class ids", "label maps"],
)
def test_soft_labels_that_make_no_sense_are_refused(y, says):
    plan = plan_of(batch=2)
    with pytest.raises(ValueError, match=says):
        MixedTarget(y, plan).soft(2)
    if not y.isnan().any():  # where it is meant
        assert torch.equal(MixedTarget(y, plan, targets="mix").soft(2), mix(y, plan))
    with pytest.raises(TypeError, match="targets='ends'"):
        MixedTarget(y, plan, targets="ends").soft(2)


def test_accuracy_needs_one_target():
    with pytest.raises(
        TypeError, match="accuracy needs a single tensor of targets, but got a dict"
    ):
        MixedTarget({"y": torch.zeros(BATCH)}, plan_of()).accuracy(torch.zeros(BATCH, 2))


class HandsOn:
    """A criterion whose reduction is that of a part of it, as fastai's losses are."""

    def __init__(self):
        self.part = nn.CrossEntropyLoss()

    @property
    def reduction(self):
        return self.part.reduction

    @reduction.setter
    def reduction(self, value):
        self.part.reduction = value

    def __call__(self, output, target):
        return self.part(output, target)


def test_a_reduction_that_is_handed_on_stays_as_it_is():
    criterion, output, y = HandsOn(), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    plan = MixPlan("x", torch.tensor([0.1, 0.5, 0.7, 1.0]), torch.tensor([1, 0, 3, 2]))
    loss = MixedTarget(y, plan).loss(criterion, output)
    torch.testing.assert_close(loss, MixedTarget(y, plan).loss(nn.CrossEntropyLoss(), output))
    assert criterion.reduction == "mean"
