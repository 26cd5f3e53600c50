"""Cross-entropy of class indices: both ends from one log-softmax, as if evaluated twice."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan
from manifold_mixup._target import classes
from states import randn

BATCH, CLASSES = 6, 4
PERM, REPEATED = torch.tensor([3, 0, 1, 2, 5, 4]), torch.tensor([3, 3, 4, 2, 5, 3])
Y = torch.tensor([0, 3, 1, 1, 2, 0])
IGNORED = torch.tensor([0, -100, 1, 1, 2, -100])
WEIGHT = torch.tensor([0.5, 1.0, 2.0, 3.0])
SHARES = {
    "one": torch.tensor(0.3),
    "none": torch.tensor(0.0),
    "all": torch.tensor(1.0),
    "each": torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
}
CRITERIA = {
    "mean": nn.CrossEntropyLoss(),
    "sum": nn.CrossEntropyLoss(reduction="sum"),
    "none": nn.CrossEntropyLoss(reduction="none"),
    "weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "weights, sum": nn.CrossEntropyLoss(weight=WEIGHT, reduction="sum"),
    "another ignored": nn.CrossEntropyLoss(ignore_index=1),
}


@pytest.fixture(params=[classes._SMALL, 0], ids=["small", "large"])
def size(request, monkeypatch):
    """Take the scores for small ones or for large ones: a λ for each row has a way for each."""
    monkeypatch.setattr(classes, "_SMALL", request.param)


class Softmaxes(TorchDispatchMode):
    """Counts log-softmaxes."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._log_softmax.default
        return func(*args, **(kwargs or {}))


def by_hand(criterion, output, y, lam, perm):
    """Weigh the losses of the rows, and reduce with the divisors of both ends."""
    rows = copy.copy(criterion)
    rows.reduction = "none"
    own, partner = rows(output, y), rows(output, y[perm])
    mixed = [lam * own, (1 - lam) * partner]
    if criterion.reduction == "none":
        return sum(mixed)
    if criterion.reduction == "sum":
        return sum(mixed).sum()
    weight = torch.ones(CLASSES) if criterion.weight is None else criterion.weight
    divisors = [
        (weight[of.clamp(min=0)] * (of != criterion.ignore_index)).sum() for of in (y, y[perm])
    ]
    return sum(part.sum() / divisor for part, divisor in zip(mixed, divisors, strict=True))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("y", [Y, IGNORED], ids=["all count", "some ignored"])
@pytest.mark.parametrize("perm", [PERM, REPEATED], ids=["permutation", "repeated"])
@pytest.mark.usefixtures("size")
def test_it_is_the_loss_written_out(criterion, share, y, perm):
    criterion, lam = CRITERIA[criterion], SHARES[share]
    y = y.where(y != -100, criterion.ignore_index)
    output = randn(BATCH, CLASSES).requires_grad_()
    mixed = MixedTarget(y, MixPlan("a", lam, perm)).loss(criterion, output)
    wanted = by_hand(criterion, output, y, lam, perm)
    torch.testing.assert_close(mixed, wanted)
    ours, theirs = (
        torch.autograd.grad(end.sum(), output, retain_graph=True)[0] for end in (mixed, wanted)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "criterion", [nn.CrossEntropyLoss(), F.cross_entropy], ids=["module", "function"]
)
@pytest.mark.parametrize("share", SHARES)
def test_there_is_one_log_softmax(criterion, share):
    plan = MixPlan("a", SHARES[share], PERM)
    with Softmaxes() as softmaxes:
        MixedTarget(Y, plan).loss(criterion, randn(BATCH, CLASSES))
    assert softmaxes.count == 1


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.usefixtures("size")
def test_a_loss_that_does_not_count_may_be_infinite(share):
    lam, output = SHARES[share], torch.zeros(BATCH, CLASSES)
    row = int((Y[PERM] != Y).nonzero()[0])
    output[row, Y[PERM][row]] = -torch.inf  # the partner's class is impossible
    loss = MixedTarget(Y, MixPlan("a", lam, PERM)).loss(nn.CrossEntropyLoss(), output)
    assert loss.isfinite() == (lam.expand(BATCH)[row] == 1)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.usefixtures("size")
def test_a_class_that_no_row_may_have_changes_nothing(share):
    scores = randn(BATCH, CLASSES)
    ruled_out = torch.cat([scores, torch.full((BATCH, 1), -torch.inf)], 1)
    plan = MixPlan("a", SHARES[share], PERM)
    losses, gradients = [], []
    for output in (scores.requires_grad_(), ruled_out.requires_grad_()):
        losses.append(MixedTarget(Y, plan).loss(nn.CrossEntropyLoss(), output))
        gradients.append(torch.autograd.grad(losses[-1], output)[0])
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1][:, :CLASSES], gradients[0])
    assert not gradients[1][:, CLASSES].any()


def hooked():
    criterion = nn.CrossEntropyLoss()
    criterion.register_forward_hook(lambda module, args, loss: 3 * loss)
    return criterion


def replaced():
    criterion = nn.CrossEntropyLoss()
    criterion.forward = lambda output, y: 3 * F.cross_entropy(output, y)
    return criterion


class Threefold(nn.CrossEntropyLoss):
    def forward(self, output, y):
        return 3 * super().forward(output, y)


@pytest.mark.parametrize("make", [hooked, replaced, Threefold])
def test_what_is_around_the_criterion_runs(make):
    output, plan = randn(BATCH, CLASSES), MixPlan("a", 0.3, PERM)
    loss = MixedTarget(Y, plan).loss(make(), output)
    torch.testing.assert_close(loss, 3 * by_hand(nn.CrossEntropyLoss(), output, Y, 0.3, PERM))


def test_a_hook_of_all_modules_runs():
    output, plan = randn(BATCH, CLASSES), MixPlan("a", 0.3, PERM)
    hook = nn.modules.module.register_module_forward_hook(lambda module, args, loss: 3 * loss)
    try:
        loss = MixedTarget(Y, plan).loss(nn.CrossEntropyLoss(), output)
    finally:
        hook.remove()
    torch.testing.assert_close(loss, 3 * by_hand(nn.CrossEntropyLoss(), output, Y, 0.3, PERM))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_changed_option_counts_from_then_on(smoothing):
    criterion = nn.CrossEntropyLoss()
    output, plan = randn(BATCH, CLASSES), MixPlan("a", 0.3, PERM)
    MixedTarget(Y, plan).loss(criterion, output)
    criterion.label_smoothing = smoothing
    loss = MixedTarget(Y, plan).loss(criterion, output)
    torch.testing.assert_close(loss, by_hand(criterion, output, Y, 0.3, PERM))


@pytest.mark.parametrize(
    ("y", "error"),
    [
        (Y[:-1], ValueError),  # another batch
        (Y + CLASSES, IndexError),  # no such class
        (Y.float(), (ValueError, RuntimeError)),  # neither indices nor probabilities
    ],
    ids=["short", "no class", "floats"],
)
def test_wrong_targets_are_refused(y, error):
    model = nn.Linear(5, CLASSES)
    mixup = ManifoldMixup(model, ["input"], example=randn(2, 5), seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with pytest.raises(error):
        criterion(model(randn(BATCH, 5)), y)


def test_the_wrapped_criterion_claims_its_output_and_mixes_a_plain_pass_plainly():
    model = nn.Linear(5, CLASSES)
    mixup = ManifoldMixup(model, ["input"], example=randn(2, 5), seed=0)
    criterion, x = mixup.wrap(nn.CrossEntropyLoss()), randn(BATCH, 5)
    loss = criterion(output := model(x), Y)
    wanted = by_hand(nn.CrossEntropyLoss(), output, Y, mixup.plan.lam, mixup.plan.perm)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    with mixup.paused():
        plain = model(x)
    assert torch.equal(criterion(plain, Y), F.cross_entropy(plain, Y))


@pytest.mark.parametrize("reduction", ["batchmean", "MEAN"])
@pytest.mark.parametrize("share", SHARES)
def test_a_reduction_that_pytorch_does_not_have_is_refused(reduction, share):
    criterion = nn.CrossEntropyLoss()
    criterion.reduction = reduction
    with pytest.raises(ValueError, match=reduction):
        MixedTarget(Y, MixPlan("a", SHARES[share], PERM)).loss(criterion, randn(BATCH, CLASSES))


def test_a_weight_of_each_score_is_refused_with_the_way_out():
    criterion = nn.CrossEntropyLoss(weight=torch.ones(BATCH, CLASSES))
    with pytest.raises(ValueError, match="one entry for each of the 6 examples"):
        MixedTarget(Y, MixPlan("a", 0.3, PERM)).loss(criterion, randn(BATCH, CLASSES))


@pytest.mark.parametrize("share", SHARES)
def test_under_a_transform_it_is_evaluated_twice(share):
    target = MixedTarget(Y, MixPlan("a", SHARES[share], PERM))
    outputs = torch.stack([randn(BATCH, CLASSES, seed=seed) for seed in (1, 2)])

    def loss(output):
        return target.loss(nn.CrossEntropyLoss(), output)

    each = torch.stack([loss(output) for output in outputs])
    torch.testing.assert_close(torch.func.vmap(loss)(outputs), each)


def three_times(output, y, *_, **__):
    return 3 * -output.log_softmax(1).gather(1, y[:, None]).mean()


class Threefolds(torch.overrides.TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return 3 * result if func is F.cross_entropy else result


def test_what_replaces_the_function_of_pytorch_runs(monkeypatch):
    output, plan = randn(BATCH, CLASSES), MixPlan("a", 0.3, PERM)
    wanted = 3 * by_hand(nn.CrossEntropyLoss(), output, Y, 0.3, PERM)
    with Threefolds():
        loss = MixedTarget(Y, plan).loss(nn.CrossEntropyLoss(), output)
    torch.testing.assert_close(loss, wanted)
    monkeypatch.setattr(F, "cross_entropy", three_times)
    loss = MixedTarget(Y, plan).loss(nn.CrossEntropyLoss(), output)
    torch.testing.assert_close(loss, wanted)
