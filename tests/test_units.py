"""A target is a unit with all that belongs to it; compared with losses split by hand."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget, MixPlan

BATCH = 6
PERM = torch.tensor([2, 0, 1, 5, 3, 4])
ONE = MixPlan("layer", torch.tensor(0.3), PERM)
EACH = MixPlan("layer", torch.tensor([0.9, 0.1, 0.7, 0.0, 1.0, 0.4]), PERM)
PLANS = pytest.mark.parametrize("plan", [ONE, EACH], ids=["scalar", "per_sample"])


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_rows(value):
    if isinstance(value, dict):
        return {name: part[PERM] for name, part in value.items()}
    return tuple(part[PERM] for part in value) if isinstance(value, tuple) else value[PERM]


def both(criterion, output, y, plan=ONE):
    return plan.lam * criterion(output, y) + (1 - plan.lam) * criterion(output, by_rows(y))


def masked(keeps, loss):
    """Return a criterion with a loss per row that ignores values where ``keeps`` is false."""

    def criterion(output, y, reduction="mean"):
        keep = keeps(y)
        safe = torch.where(keep, y, 0)
        losses = torch.where(keep, loss(output, safe, reduction="none"), 0)
        return losses if reduction == "none" else losses.sum() / keep.sum()

    return criterion


def placed(y, placeholder):
    """Put a placeholder at some positions of a target."""
    return torch.where(randn(*y.shape, seed=9) > 0.7, torch.tensor(placeholder), y)


PLACEHOLDERS = {
    "binary masks, 255": (
        masked(lambda y: y != 255, F.binary_cross_entropy_with_logits),
        placed((randn(BATCH, 1, 4, 4) > 0).float(), 255.0),
    ),
    "several labels, -1": (
        masked(lambda y: y >= 0, F.binary_cross_entropy_with_logits),
        placed((randn(BATCH, 4) > 0).float(), -1.0),
    ),
    "depth, 0": (masked(lambda y: y > 0, F.l1_loss), placed(randn(BATCH, 9).abs() + 1, 0.0)),
    "depth, NaN": (
        masked(lambda y: ~y.isnan(), F.mse_loss),
        placed(randn(BATCH, 9), float("nan")),
    ),
}


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_placeholders_are_never_averaged(kind):
    criterion, y = PLACEHOLDERS[kind]
    output = randn(*y.shape, seed=1).requires_grad_()
    ours = MixedTarget(y, ONE).loss(criterion, output)
    torch.testing.assert_close(ours, both(criterion, output, y))
    ours.backward()
    assert output.grad.isfinite().all()


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_placeholders_with_a_lam_per_sample(kind):
    criterion, y = PLACEHOLDERS[kind]
    output, lam = randn(*y.shape, seed=1), EACH.lam.view(-1, *(1 for _ in y.shape[1:]))
    none = functools.partial(criterion, reduction="none")
    losses = lam * none(output, y) + (1 - lam) * none(output, y[PERM])
    count = none(output, y).sum() / criterion(output, y)
    torch.testing.assert_close(MixedTarget(y, EACH).loss(criterion, output), losses.sum() / count)


def test_a_row_without_a_measurement_is_the_partners_alone():
    """An empty mean is NaN; with weight 0, or ignored by a mean over the others, it is 0."""
    y = torch.tensor([[1.0, 2], [torch.nan, torch.nan], [3, torch.nan]])
    output = randn(3, 2).requires_grad_()

    def rows(output, y):
        keep = ~y.isnan()
        return torch.where(keep, (output - y.nan_to_num()) ** 2, 0).sum(1) / keep.sum(1)

    def criterion(output, y, reduction="mean"):
        return rows(output, y) if reduction == "none" else rows(output, y).nanmean()

    plan = MixPlan("layer", torch.tensor([0.25, 0.5, 1.0]), torch.tensor([1, 2, 0]))
    one = rows(output, y)
    expected = (0.25 * one[0] + 0.5 * rows(output, y[[1, 2, 0]])[1] + one[2]) / 2
    torch.testing.assert_close(MixedTarget(y, plan).loss(criterion, output), expected)
    unreduced = MixedTarget(y, plan).loss(rows, output)
    torch.testing.assert_close(unreduced[2], one[2])  # and not NaN
    whole = MixPlan("layer", torch.tensor(1.0), torch.tensor([1, 2, 0]))
    infinite = lambda output, y: torch.where(y[0] == 1, 2.0, torch.inf)  # noqa: E731
    assert MixedTarget(torch.tensor([1, 0, 0]), whole).loss(infinite, output) == 2


def dice(output, y):
    """Take label maps (batch, 1, height, width) of any type, like MONAI's losses."""
    wanted = F.one_hot(y[:, 0].long(), output.shape[1]).movedim(-1, 1)
    share = output.softmax(1)
    return (1 - 2 * (share * wanted).sum((0, 2, 3)) / (share + wanted).sum((0, 2, 3))).mean()


CODES = {
    "class ids": (
        lambda o, y, reduction="mean": F.cross_entropy(o, y.long(), reduction=reduction),
        torch.tensor([0.0, 4, 2, 3, 1, 1]),
        (BATCH, 5),
    ),
    "label maps": (dice, (randn(BATCH, 1, 8, 3).abs() * 2).floor().clamp_max(2), (BATCH, 3, 8, 3)),
    "soft margin": (nn.SoftMarginLoss(), randn(BATCH, 3).sign(), (BATCH, 3)),
    "hinge": (nn.HingeEmbeddingLoss(), randn(BATCH).sign(), (BATCH,)),
    "log probabilities": (
        nn.KLDivLoss(log_target=True, reduction="batchmean"),
        randn(BATCH, 4).log_softmax(1),
        (BATCH, 4),
    ),
}


@pytest.mark.parametrize("kind", CODES)
def test_floats_that_are_codes(kind):
    criterion, y, shape = CODES[kind]
    output = randn(*shape, seed=1)
    torch.testing.assert_close(
        MixedTarget(y, ONE).loss(criterion, output), both(criterion, output, y)
    )


@PLANS
def test_log_probabilities_are_not_averaged(plan):
    output, y = randn(BATCH, 4, seed=1).log_softmax(1), randn(BATCH, 4).log_softmax(1)
    each = functools.partial(F.kl_div, log_target=True, reduction="none")
    lam = plan.lam[:, None] if plan.lam.ndim else plan.lam
    expected = (lam * each(output, y) + (1 - lam) * each(output, y[PERM])).sum() / BATCH
    criterion = nn.KLDivLoss(log_target=True, reduction="batchmean")
    torch.testing.assert_close(MixedTarget(y, plan).loss(criterion, output), expected)


def weighted(output, y, reduction="mean"):
    losses = F.cross_entropy(output, y["class"], reduction="none") * y["weight"]
    return losses if reduction == "none" else losses.sum() / y["weight"].sum()


@PLANS
@pytest.mark.parametrize("unused", [0, 4])
def test_a_label_of_weight_0_has_no_effect(plan, unused):
    output = randn(BATCH, 5)
    y = {
        "class": torch.tensor([unused, 1, 3, 2, 2, 4]),
        "weight": torch.tensor([0.0, 1, 2, 1, 0.5, 1]),
    }
    none = functools.partial(weighted, reduction="none")
    expected = both(none, output, y, plan).sum() / y["weight"].sum()
    torch.testing.assert_close(MixedTarget(y, plan).loss(weighted, output), expected)
    other = {**y, "class": y["class"].index_fill(0, torch.tensor([0]), 3)}
    again = MixedTarget(other, plan).loss(weighted, output)
    torch.testing.assert_close(again, expected)


@PLANS
@pytest.mark.parametrize("fill", [0.0, 1e6])
def test_a_value_that_is_not_valid_does_not_leak(plan, fill):
    output, valid = (
        randn(BATCH, 7, seed=1),
        torch.arange(7) < torch.tensor([7, 2, 5, 3, 1, 7])[:, None],
    )
    y = torch.where(valid, randn(BATCH, 7), fill), valid

    def criterion(output, y, reduction="mean"):
        losses = torch.where(y[1], (output - y[0]) ** 2, 0)
        return losses if reduction == "none" else losses.sum() / y[1].sum()

    lam = plan.lam[:, None] if plan.lam.ndim else plan.lam
    own, partner = criterion(output, y, "none"), criterion(output, by_rows(y), "none")
    expected = (lam * own + (1 - lam) * partner).sum() / valid.sum()
    torch.testing.assert_close(MixedTarget(y, plan).loss(criterion, output), expected)


# CTC: its mean divides the loss of each example by the length of its own target

STEPS = 11
LENGTHS = torch.tensor([4, 1, 3, 2, 4, 1])
FRAMES = torch.tensor([11, 9, 10, 11, 8, 11])
LABELS = 1 + torch.arange(BATCH * 4).reshape(BATCH, 4) * 7 % 5


def ctc_by_hand(output, plan, reduction):
    own, partner = (
        F.ctc_loss(output, LABELS[rows], FRAMES[rows], LENGTHS[rows], reduction="none")
        / (LENGTHS[rows] if reduction == "mean" else 1)
        for rows in (torch.arange(BATCH), PERM)
    )
    mixed = plan.lam * own + (1 - plan.lam) * partner
    return mixed.mean() if reduction == "mean" else mixed.sum()


@PLANS
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("call", ["module", "function", "numbers", "position", "names"])
def test_ctc_in_the_call_of_pytorch(call, reduction, plan):
    output = randn(STEPS, BATCH, 6).log_softmax(-1)
    mixed, module = MixedTarget(LABELS, plan), nn.CTCLoss(reduction=reduction)
    ours = {
        "module": lambda: mixed.loss(module, output, FRAMES, LENGTHS),
        "function": lambda: mixed.loss(F.ctc_loss, output, FRAMES, LENGTHS, reduction=reduction),
        "numbers": lambda: mixed.loss(module, output, tuple(FRAMES.tolist()), LENGTHS.tolist()),
        "position": lambda: mixed.loss(F.ctc_loss, output, FRAMES, LENGTHS, 0, reduction),
        "names": lambda: mixed.loss(module, output, input_lengths=FRAMES, target_lengths=LENGTHS),
    }[call]()
    torch.testing.assert_close(ours, ctc_by_hand(output, plan, reduction))


@PLANS
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_ctc_in_a_tuple(reduction, plan):
    output = randn(STEPS, BATCH, 6).log_softmax(-1)

    def criterion(output, y, reduction=reduction):
        return F.ctc_loss(output, y[0], y[1], y[2], reduction=reduction)

    ours = MixedTarget((LABELS, FRAMES, LENGTHS), plan).loss(criterion, output)
    torch.testing.assert_close(ours, ctc_by_hand(output, plan, reduction))


def test_ctc_with_targets_one_after_another_is_refused():
    output = randn(STEPS, BATCH, 6).log_softmax(-1)
    with pytest.raises(ValueError, match=r"\(batch, length\), padded"):
        MixedTarget(LABELS[:, 0], ONE).loss(nn.CTCLoss(), output, FRAMES, torch.ones(BATCH).long())


def test_a_reduction_that_is_no_share_of_the_rows_is_refused():
    """The root of the mean cannot be computed from losses per row."""

    def root(output, y, reduction="mean"):
        losses = F.cross_entropy(output, y, reduction="none")
        return losses if reduction == "none" else losses.square().mean().sqrt()

    y, output = torch.tensor([0, 4, 2, 3, 1, 1]), randn(BATCH, 5)
    with pytest.raises(TypeError, match=r"root reduces.*unknown rule.*Do not reduce"):
        MixedTarget(y, EACH).loss(root, output)
    torch.testing.assert_close(MixedTarget(y, ONE).loss(root, output), both(root, output, y))


def test_a_loss_of_floats_needs_rows_or_a_mixed_target():
    def huber(output, y):
        return F.huber_loss(output, y)

    y, output = randn(BATCH, 3), randn(BATCH, 3, seed=1)
    with pytest.raises(TypeError, match=r"huber returned shape.*targets='mix'"):
        MixedTarget(y, EACH).loss(huber, output)
    classes = torch.tensor([0, 2, 1, 0, 1, 2])  # these cannot be interpolated
    with pytest.raises(TypeError, match=r"or use per_sample=False\.$"):
        MixedTarget(classes, EACH).loss(lambda o, y: F.cross_entropy(o, y), output)
    expected = MixedTarget(y, EACH).loss(nn.HuberLoss(), output)
    torch.testing.assert_close(MixedTarget(y, EACH, targets="mix").loss(huber, output), expected)


# Further arguments


def scaled(output, y, scale, *, shift=None):
    """Weight the losses of examples."""
    losses = F.cross_entropy(output, y, reduction="none") * scale
    return losses if shift is None else losses + shift


Y, SCALE, SHIFT = torch.tensor([0, 4, 2, 3, 1, 1]), randn(BATCH, seed=2).abs(), randn(BATCH, seed=3)


@PLANS
@pytest.mark.parametrize("said", [("scale", "shift"), (2, "shift")], ids=["names", "positions"])
def test_arguments_that_are_mixed_with_the_target(said, plan):
    output = randn(BATCH, 5)
    own, partner = (
        scaled(output, Y, SCALE, shift=SHIFT),
        scaled(output, Y[PERM], SCALE[PERM], shift=SHIFT[PERM]),
    )
    expected = plan.lam * own + (1 - plan.lam) * partner
    mixed = MixedTarget(Y, plan, with_target=said)
    torch.testing.assert_close(mixed.loss(scaled, output, SCALE, shift=SHIFT), expected)
    torch.testing.assert_close(mixed.loss(scaled, output, scale=SCALE, shift=SHIFT), expected)


@pytest.mark.parametrize("said", ["with_output", "whole"])
def test_arguments_that_stay_as_they_are(said):
    output = randn(BATCH, 5)
    expected = both(lambda output, y: scaled(output, y, SCALE), output, Y)
    mixed = MixedTarget(Y, ONE, **{said: "scale"})
    torch.testing.assert_close(mixed.loss(scaled, output, SCALE), expected)


@pytest.mark.parametrize(
    ("more", "options", "says"),
    [
        ((SCALE,), {}, r"argument 2, 'scale', of scaled has shape \(6,\), and 6 is the batch"),
        ((1.0,), {"shift": SHIFT}, r"'shift'.*with_target=.*with_output=.*whole="),
        (({"deep": [SCALE]},), {}, r"at 'deep.0' a value that has shape \(6,\)"),
        ((SCALE.numpy(),), {}, r"'scale', of scaled has shape \(6,\)"),
        ((SCALE.tolist(),), {}, "has 6 numbers"),
        ((list("abcdef"),), {}, "has 6 items"),
        (([torch.zeros(n) for n in range(6)],), {}, "has 6 items"),
        (((1.0, None, 2.0, 3.0, None, 1.0),), {}, "has 6 items"),
        (
            ((torch.arange(4), torch.arange(4)),),
            {},
            r"at '0' a value that .* holds integers.*miner",
        ),
        ((randn(12) > 0,), {}, r"shape \(12,\), a multiple of the batch size, 6"),
        (
            (randn(12),),
            {},
            r"shape \(12,\), a multiple of the batch size, 6.*flatten it in the crit",
        ),
    ],
    ids=[
        "position",
        "name",
        "container",
        "NumPy",
        "list",
        "names",
        "boxes",
        "with holes",
        "pairs of rows",
        "flat mask",
        "flat weights",
    ],
)
def test_an_argument_that_nobody_spoke_of_is_refused(more, options, says):
    with pytest.raises(ValueError, match=says):
        MixedTarget(Y, ONE).loss(scaled, randn(BATCH, 5), *more, **options)


def test_a_mask_of_classes_needs_no_declaration():
    """Booleans, unlike integers, cannot number the examples."""

    def seen_only(output, y, seen):
        return F.cross_entropy(output.masked_fill(~seen, -10.0), y)

    seen = torch.tensor([True, True, True, False, True])
    output = randn(BATCH, 5)
    expected = both(lambda output, y: seen_only(output, y, seen), output, Y)
    torch.testing.assert_close(MixedTarget(Y, ONE).loss(seen_only, output, seen), expected)


@pytest.mark.parametrize("first", ["input", "target"])
@pytest.mark.parametrize(
    "criterion",
    [lambda *, target, input: F.cross_entropy(input, target), lambda **of: F.cross_entropy(**of)],
    ids=["by name only", "any name"],
)
def test_arguments_that_have_no_position_are_known_by_their_names(criterion, first):
    mixup = attach()
    output, plan = run(mixup)
    given = {"input": output, "target": Y}
    expected = plan.lam * F.cross_entropy(output, Y)
    expected = expected + (1 - plan.lam) * F.cross_entropy(output, Y[plan.perm])
    call = {name: given[name] for name in sorted(given, key=lambda name: name != first)}
    torch.testing.assert_close(mixup.wrap(criterion)(**call), expected)


class Nothing(nn.Module):
    def forward(self, output, y):
        return output.sum()


def test_messages_name_what_a_partial_or_a_method_is_of():
    mixup = attach()
    with pytest.raises(ValueError, match=r"^scaled has no argument 'zz'"):
        mixup.wrap(functools.partial(scaled, scale=1.0), whole="zz")
    with pytest.raises(ValueError, match=r"^Nothing has no argument 'zz'"):
        mixup.wrap(Nothing().forward, whole="zz")


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="newer than this PyTorch")
def test_the_weights_of_a_loss_are_given_by_position_or_by_name():
    hidden, weight = randn(BATCH, 4), randn(5, 4, seed=1)
    expected = both(lambda h, y: F.linear_cross_entropy(h, weight, y), hidden, Y)
    mixed = MixedTarget(Y, ONE)
    ways = ((hidden, weight), {}), ((hidden,), {"linear_weight": weight})
    for given, named in ways:
        loss = mixed.loss(F.linear_cross_entropy, *given, **named)
        torch.testing.assert_close(loss, expected)


def test_what_is_declared_has_to_be_there_and_once():
    mixup = attach()
    with pytest.raises(ValueError, match=r"scaled has no argument 'scales', only \['output', 'y'"):
        mixup.wrap(scaled, with_target="scales")
    with pytest.raises(ValueError, match=r"no argument at position 7"):
        mixup.wrap(scaled, with_target=7)
    with pytest.raises(ValueError, match=r"'scale'.*more than one"):
        mixup.wrap(scaled, with_target="scale", whole=("scale",))
    with pytest.raises(TypeError, match=r"names or positions.*1.5"):
        mixup.wrap(scaled, with_target=(1.5,))
    with pytest.raises(ValueError, match=r"argument 2.*7 rows|shape \(7,\)"):
        MixedTarget(Y, ONE, with_target="scale").loss(scaled, randn(BATCH, 5), randn(7))


def attach(**options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))
    return ManifoldMixup(model, ["0"], seed=0, **options)


def run(mixup, rows=BATCH):
    output = mixup._attachment.model(randn(rows, 4, seed=rows))
    return output, mixup.plan


def test_class_weights_with_as_many_classes_as_rows():
    """A batch of another size shows that they have no batch dimension; before, it is unknown."""

    def balanced(output, y, weight):
        return F.cross_entropy(output, y, weight=weight)

    mixup, weight = attach(), randn(5, seed=7).abs()
    criterion = mixup.wrap(balanced)
    for rows in (7, 5):
        output, plan = run(mixup, rows)
        y = torch.arange(rows) % 5
        own, partner = balanced(output, y, weight), balanced(output, y[plan.perm], weight)
        expected = plan.lam * own + (1 - plan.lam) * partner
        torch.testing.assert_close(criterion(output, y, weight), expected)
    output, _ = run(mixup, 5)
    with pytest.raises(ValueError, match="class weights"):
        mixup.wrap(balanced)(output, torch.arange(5), weight)
    known = F.cross_entropy  # it is known for PyTorch's own losses
    mixup.wrap(known)(output, torch.arange(5), weight)


def test_numbers_that_are_a_multiple_of_the_batch_by_chance():
    def summed(output, y, numbers):
        return F.cross_entropy(output, y) * numbers.sum()

    mixup, numbers = attach(), randn(10, seed=7).abs()
    criterion = mixup.wrap(summed)
    for rows in (7, 5, 1):  # the first shows that they are not rows of examples
        output, plan = run(mixup, rows)
        y = torch.arange(rows) % 5
        expected = plan.lam * summed(output, y, numbers)
        expected = expected + (1 - plan.lam) * summed(output, y[plan.perm], numbers)
        torch.testing.assert_close(criterion(output, y, numbers), expected)
    step = torch.tensor([3])  # a single integer counts no examples
    output, _ = run(mixup, 5)
    criterion(output, torch.arange(5), step)


def mined(output, y):
    """Return pairs of rows with the same label, as a miner does."""
    return torch.nonzero(y[:, None] == y, as_tuple=True)


def drawn_together(output, y, pairs=None):
    first, second = mined(output, y) if pairs is None else pairs
    return (output[first] - output[second]).square().mean()


def test_pairs_that_a_miner_finds_follow_the_targets_inside_the_criterion():
    """Given from outside, the pairs of the own labels would count at both ends."""
    output = randn(BATCH, 5)
    outside = MixedTarget(Y, ONE, whole="pairs").loss(drawn_together, output, mined(output, Y))
    expected = both(drawn_together, output, Y)
    assert not outside.allclose(expected)

    def inside(output, y):
        return drawn_together(output, y, mined(output, y))

    torch.testing.assert_close(MixedTarget(Y, ONE).loss(inside, output), expected)
    with pytest.raises(ValueError, match="belongs in the criterion"):
        MixedTarget(Y, ONE).loss(drawn_together, output, mined(output, Y))


def test_pytorch_s_own_losses_are_known_by_the_names_of_their_arguments():
    lam, output, other = ONE.lam, randn(BATCH, 3), randn(BATCH, 3, seed=1)
    signs, values, rows = (
        randn(BATCH).sign(),
        randn(BATCH, 3, seed=2),
        randn(BATCH, 3, seed=3).abs(),
    )

    def ends(loss):
        return lam * loss(torch.arange(BATCH)) + (1 - lam) * loss(PERM)

    cosine = ends(lambda i: F.cosine_embedding_loss(output, other, signs[i]))
    mixed = MixedTarget(signs, ONE)
    torch.testing.assert_close(mixed.loss(nn.CosineEmbeddingLoss(), output, other), cosine)
    torch.testing.assert_close(mixed.loss(F.cosine_embedding_loss, output, input2=other), cosine)
    variance = ends(lambda i: F.gaussian_nll_loss(output, values[i], rows))
    ours = MixedTarget(values, ONE).loss(nn.GaussianNLLLoss(), output, rows)
    torch.testing.assert_close(ours, variance)
    weight = ends(lambda i: F.mse_loss(output, values[i], weight=rows[i]))
    torch.testing.assert_close(
        MixedTarget(values, ONE).loss(F.mse_loss, output, weight=rows), weight
    )
    labels, binary = (values > 0).float(), F.binary_cross_entropy_with_logits
    square, classes = randn(3, 3), randn(3).abs()  # as many classes as rows
    plan = MixPlan("layer", lam, torch.tensor([1, 2, 0]))
    expected = lam * binary(square, labels[:3], classes) + (1 - lam) * binary(
        square, labels[[1, 2, 0]], classes
    )
    torch.testing.assert_close(
        MixedTarget(labels[:3], plan).loss(binary, square, classes), expected
    )
    held = nn.BCEWithLogitsLoss(weight=rows)
    with pytest.raises(ValueError, match=r"the weight of the criterion has shape \(6, 3\)"):
        MixedTarget(labels, ONE).loss(held, output)


@pytest.mark.parametrize("names", [("input", "target"), ("output", "y"), ("o", "target")])
def test_called_by_name(names):
    functions = {
        ("input", "target"): nn.CrossEntropyLoss(),
        ("output", "y"): lambda output, y: F.cross_entropy(output, y),
        ("o", "target"): lambda o, *, target: F.cross_entropy(o, target),
    }
    mixup = attach()
    output, plan = run(mixup)
    criterion = mixup.wrap(functions[names])
    own, partner = F.cross_entropy(output, Y), F.cross_entropy(output, Y[plan.perm])
    expected = plan.lam * own + (1 - plan.lam) * partner
    torch.testing.assert_close(criterion(**{names[0]: output, names[1]: Y}), expected)
    torch.testing.assert_close(criterion(output, **{names[1]: Y}), expected)
    with pytest.raises(TypeError, match="has no target"):
        criterion(output)


def test_inputs_before_the_output():
    def with_inputs(inputs, output, y):
        return F.cross_entropy(output, y) * inputs.abs().mean() + (inputs[:, 0] * y).mean()

    mixup = attach()
    x = randn(BATCH, 4, seed=BATCH)
    output, plan = run(mixup)
    ours = mixup.wrap(with_inputs, with_target=0)(x, output, Y)
    partner = with_inputs(x[plan.perm], output, Y[plan.perm])
    expected = plan.lam * with_inputs(x, output, Y) + (1 - plan.lam) * partner
    torch.testing.assert_close(ours, expected)
    with pytest.raises(ValueError, match="swapped"):
        mixup.wrap(with_inputs)(x, output, Y)


def test_a_variance_of_the_model_is_claimed_too():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.mean, self.log_var = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x):
            h = self.body(x)
            return self.mean(h), self.log_var(h)

    model, y = Both(), randn(BATCH, 2, seed=8)
    mixup = ManifoldMixup(model, ["body"], seed=0)
    mean, log_var = model(randn(BATCH, 4))
    plan = mixup.plan
    ours = mixup.wrap(nn.GaussianNLLLoss())(mean, y, log_var.exp())
    loss = functools.partial(F.gaussian_nll_loss, mean, var=log_var.exp())
    torch.testing.assert_close(ours, plan.lam * loss(y) + (1 - plan.lam) * loss(y[plan.perm]))
    ours.backward()
    mean, log_var = model(randn(BATCH, 4))
    own = lambda mean, y, log_var: F.gaussian_nll_loss(mean, y, log_var.exp())  # noqa: E731
    mixup.wrap(own, with_output="log_var")(mean, y, log_var).backward()
    mean, log_var = model(randn(BATCH, 4))
    with pytest.raises(ValueError, match="mixed the hidden state"):
        mixup.wrap(own, with_target="log_var")(mean, y, log_var)
