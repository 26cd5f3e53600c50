"""A λ per sample: the loss of each row on its own, reduced as the criterion reduces."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manifold_mixup import MixedTarget, MixPlan
from states import draw, randn
from targets import (
    BATCH,
    CLASSES,
    EACH_SHAPE,
    IGNORE,
    WEIGHT,
    Argument,
    Focal,
    Unchanging,
    assert_same_loss,
    classes_of,
    scores_of,
)

REDUCED = pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
OPTIONS = {
    "plain": {},
    "weighted": {"weight": WEIGHT},
    "smoothed": {"label_smoothing": 0.2},
    "all": {"weight": WEIGHT, "label_smoothing": 0.2, "ignore_index": 1},
}


def row_by_row(output, y, plan, reduction, **options):
    """Interpolate the losses of each row; divide by the denominator of the plain mean."""
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
    plan, output = draw(per_sample=True), scores_of(shape)
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
    one, each = draw(lam=0.3), draw(lam=0.3, per_sample=True)
    before = getattr(criterion, "reduction", None)
    expected = MixedTarget(y, one).loss(criterion, output)
    assert_same_loss(MixedTarget(y, each).loss(criterion, output), expected, output)
    assert getattr(criterion, "reduction", None) == before


def test_what_belongs_to_a_target_goes_with_it():
    """For an alignment, these are the lengths of the labels."""
    output = randn(9, BATCH, CLASSES).requires_grad_()
    y = 1 + classes_of((BATCH, 3)) % (CLASSES - 1), torch.tensor([1, 3, 2, 3, 1, 2])

    def criterion(output, target, reduction="sum"):
        labels, lengths = target
        steps = torch.full((BATCH,), 9)
        return F.ctc_loss(output.log_softmax(-1), labels, steps, lengths, reduction=reduction)

    for plan in (draw(), draw(per_sample=True)):
        own, partner = criterion(output, y, "none"), [part[plan.perm] for part in y]
        expected = (plan.lam * own + (1 - plan.lam) * criterion(output, partner, "none")).sum()
        assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_rows_that_are_right_for_certain_do_not_hide_the_denominator(reduction):
    """A loss of exactly 0 does not reveal its denominator, but the loss of the partners does."""
    plan, y = draw(per_sample=True), torch.arange(BATCH) % CLASSES
    output = (200.0 * F.one_hot(y, CLASSES)).requires_grad_()
    assert F.cross_entropy(output, y) == 0
    criterion = nn.CrossEntropyLoss(weight=WEIGHT, reduction=reduction)
    expected = row_by_row(output, y, plan, reduction, weight=WEIGHT)
    assert_same_loss(MixedTarget(y, plan).loss(criterion, output), expected, output)


def test_where_all_is_ignored_the_mean_is_that_of_the_plain_loss():
    y, output = torch.full((BATCH,), IGNORE), scores_of((BATCH,))
    mixed = MixedTarget(y, draw(per_sample=True))
    assert mixed.loss(nn.CrossEntropyLoss(), output).isnan()  # like the plain loss
    assert mixed.loss(nn.CrossEntropyLoss(reduction="sum"), output) == 0


def test_a_large_half_loss_does_not_overflow():
    """The sum of 240,000 losses overflows float16, but their mean does not."""
    y, output = classes_of((BATCH, 200, 200)), 20 * randn(BATCH, CLASSES, 200, 200)
    mixed = MixedTarget(y, draw(per_sample=True))
    half = mixed.loss(Focal(), output.half())
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), mixed.loss(Focal(), output), rtol=5e-3, atol=0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_reduction_among_the_options(reduction):
    plan, y, output = draw(per_sample=True), classes_of((BATCH,)), scores_of((BATCH,))
    mixed, expected = MixedTarget(y, plan), row_by_row(output, y, plan, reduction, weight=WEIGHT)
    ours = mixed.loss(F.cross_entropy, output, reduction=reduction, weight=WEIGHT)
    assert_same_loss(ours, expected, output)
    assert_same_loss(mixed.loss(Argument(), output, reduction=reduction), expected, output)


class Dice(nn.Module):
    def forward(self, output, target):
        return 1 - output.softmax(1).gather(1, target[:, None]).mean()


class Deaf(nn.Module):
    """Has a reduction attribute, but ignores it."""

    reduction = "mean"

    def forward(self, output, target):
        return F.cross_entropy(output, target)


class Computed(Deaf):
    """Has a reduction attribute that cannot be set."""

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
        MixedTarget(y, draw(per_sample=True)).loss(criterion, output)
    MixedTarget(y, draw()).loss(criterion, output)  # one λ does not need it


def test_a_builtin_criterion_does_not_tell_its_arguments():
    plan, y, output = draw(per_sample=True), classes_of((BATCH,)), scores_of((BATCH,))
    builtin = torch._C._nn.nll_loss  # does not reduce by default
    ours = MixedTarget(y, plan).loss(builtin, output.log_softmax(1))
    torch.testing.assert_close(ours, row_by_row(output, y, plan, "none"))


class HandsOn:
    """A criterion whose reduction is that of a part of it, like fastai's losses."""

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
