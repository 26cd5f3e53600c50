"""Partners and shares of labels that depend on the targets, given before the pass."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch import nn

from manifold_mixup import ManifoldMixup, MixedTarget, Near, Remix, sample_plan
from zoo import (
    CLASSES,
    TARGET,
    build,
    example,
    gradients,
    hand_split,
    layers_of,
    logits,
    plain_labels,
)

Y = torch.tensor([0, 2, 0, 1, 2, 0, 2, 3])  # classes 1 and 3 have one example each
BATCH = len(Y)
COUNTS = (900, 300, 100, 90)


def drawn(times=1, *, y=Y, seed=0, **options):
    """Draw plans from one generator."""
    generator = torch.Generator().manual_seed(seed)
    return [
        sample_plan(len(y), layers=["fc"], alpha=1.0, y=y, generator=generator, **options)
        for _ in range(times)
    ]


def near(count, total, share):
    """Return whether a count agrees with its share, up to five standard deviations."""
    return abs(count - total * share) <= 5 * math.sqrt(total * share * (1 - share))


@pytest.mark.parametrize("kind", [torch.long, torch.int32, torch.uint8, torch.bool])
def test_partners_of_the_same_class_are_a_uniform_permutation_of_each(kind):
    y = (Y % 2).to(kind) if kind == torch.bool else Y.to(kind)
    seen = Counter()
    for plan in drawn(3000, y=y, pairs="same_class"):
        assert torch.equal(y[plan.perm], y)
        assert not plan.repeats
        seen[tuple(plan.perm[[0, 2, 5]].tolist())] += 1
    if kind != torch.bool:
        assert set(seen) == set(itertools.permutations((0, 2, 5)))
        assert all(near(count, 3000, 1 / 6) for count in seen.values())


def test_partners_of_another_class_are_uniform():
    seen = Counter()
    for plan in drawn(3000, pairs="other_class"):
        assert (Y[plan.perm] != Y).all()
        seen.update(enumerate(plan.perm.tolist()))
    for row in range(BATCH):
        others = (Y[row] != Y).nonzero()[:, 0].tolist()
        assert all(near(seen[row, other], 3000, 1 / len(others)) for other in others)


def test_a_row_without_a_partner_of_its_kind_keeps_itself():
    (alone,) = drawn(y=torch.ones(5, dtype=torch.long), pairs="other_class")
    assert torch.equal(alone.perm, torch.arange(5))
    assert not alone.repeats
    for plan in drawn(20, pairs="same_class"):
        assert plan.perm[3] == 3
        assert plan.perm[7] == 7


@pytest.mark.parametrize("numbers", [(), (1,), (2,)])
def test_partners_near_in_the_label_come_with_their_probabilities(numbers):
    y = torch.randn(5, *numbers, generator=torch.Generator().manual_seed(0))
    rows = y.view(5, -1).tolist()
    seen = Counter()
    for plan in drawn(4000, y=y, pairs=Near(0.8)):
        seen.update(enumerate(plan.perm.tolist()))
    for i, own in enumerate(rows):
        weights = [math.exp(-(math.dist(own, other) ** 2) / (2 * 0.8**2)) for other in rows]
        for j, weight in enumerate(weights):
            assert near(seen[i, j], 4000, weight / sum(weights)), (i, j)


def test_near_targets_far_from_zero_are_told_apart():
    weights = Near(1.0).weights(torch.tensor([1e6, 1e6 + 1]))
    torch.testing.assert_close(weights[0, 1].item(), math.exp(-0.5))


def test_partners_by_a_function_need_targets():
    model = nn.Linear(3, 2)
    mixup = ManifoldMixup(model, "input", pairs=lambda y, generator: torch.arange(2), check=False)
    mixup.batch(None)
    with pytest.raises(ValueError, match="depend on the targets: pass y"):
        model(torch.ones(2, 3))
    assert mixup.state_dict()["step"] == 0


def test_partners_by_a_function():
    given = []

    def following(y, generator):
        given.append((y, generator))
        return torch.arange(BATCH).roll(-1)

    (plan,) = drawn(pairs=following)
    assert torch.equal(plan.perm, torch.arange(BATCH).roll(-1))
    assert not plan.repeats
    assert given[0][0] is not None
    assert isinstance(given[0][1], torch.Generator)
    (plan,) = drawn(pairs=lambda y, generator: torch.zeros(BATCH, dtype=torch.long))
    assert plan.repeats


@pytest.mark.parametrize("per_sample", [False, True])
def test_remix_is_the_rule_of_the_paper(per_sample):
    remix = Remix(COUNTS, kappa=3, tau=0.6)
    for plan in drawn(50, per_sample=per_sample, label=remix):
        lam = plan.lam.expand(BATCH)
        for i, j in enumerate(plan.perm.tolist()):
            ratio = COUNTS[Y[i]] / COUNTS[Y[j]]
            expected = lam[i].item()
            if ratio >= 3 and lam[i] < 0.6:
                expected = 0.0
            elif ratio <= 1 / 3 and 1 - lam[i] < 0.6:
                expected = 1.0
            assert plan.label[i].item() == pytest.approx(expected)


def test_the_draws_of_layer_and_lam_do_not_depend_on_the_rules():
    (usual,), *others = (
        drawn(**options) for options in ({}, {"pairs": "other_class"}, {"label": Remix(COUNTS)})
    )
    for (plan,) in others:
        assert plan.layer == usual.layer
        assert torch.equal(plan.lam, usual.lam)


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("rules", [{"pairs": "other_class"}, {"label": Remix((9, 1) * CLASSES)}])
def test_what_trains_is_the_hand_split_model_with_these_partners_and_shares(name, rules):
    model, oracle = build(name), build(name)
    mixup = ManifoldMixup(model, layers_of(name), seed=0, **rules)
    criterion, x = mixup.wrap(nn.CrossEntropyLoss()), example(model)
    for _ in range(6):
        mixup.batch(TARGET)
        output = model(x)
        criterion(logits(output), TARGET).backward()
        plan = mixup.plan
        soft = plain_labels(TARGET, CLASSES, plan)
        expected = logits(hand_split(oracle, x, plan))
        nn.functional.cross_entropy(expected, soft).backward()
        torch.testing.assert_close(MixedTarget(TARGET, plan).soft(CLASSES), soft)
    torch.testing.assert_close(gradients(model), gradients(oracle))


@pytest.mark.parametrize("name", ["conv", "checkpoint"])
def test_compiled_code_mixes_by_repeated_partners_and_by_permutations(name):
    model, oracle = build(name), build(name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    mixup = ManifoldMixup(compiled, layers_of(name)[-1:], seed=0, pairs=alternating())
    criterion, x = mixup.wrap(nn.CrossEntropyLoss()), example(model)
    repeats = []
    for _ in range(4):
        mixup.batch(TARGET)
        criterion(logits(compiled(x)), TARGET).backward()
        expected = logits(hand_split(oracle, x, mixup.plan))
        soft = plain_labels(TARGET, CLASSES, mixup.plan)
        nn.functional.cross_entropy(expected, soft).backward()
        repeats.append(mixup.plan.repeats)
    assert repeats == [True, False, True, False]
    torch.testing.assert_close(gradients(model), gradients(oracle))


def alternating():
    """Return a function that gives partners that repeat and permutations in turn."""
    turn = itertools.count()

    def partners(y, generator):
        rolled = torch.arange(len(y)).roll(1)
        return rolled if next(turn) % 2 else rolled * 0 + 1

    return partners


def test_class_weights_are_averaged_at_each_end():
    """Partners that repeat have another sum of weights than the examples."""
    weight = torch.tensor([1.0, 5.0, 2.0, 0.5])
    (plan,) = drawn(pairs="other_class", per_sample=True)
    output = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(0))
    criterion = nn.CrossEntropyLoss(weight=weight)
    total = 0.0
    for share, y in ((plan.lam, Y), (1 - plan.lam, Y[plan.perm])):
        rows = nn.functional.cross_entropy(output, y, weight=weight, reduction="none")
        total += (share * rows).sum() / weight[y].sum()
    torch.testing.assert_close(MixedTarget(Y, plan).loss(criterion, output), total)


def test_a_share_for_each_label_needs_a_loss_for_each_row():
    (plan,) = drawn(label=Remix(COUNTS))
    with pytest.raises(TypeError, match=r"label= needs a loss for each of the 8.* use no label="):
        MixedTarget(Y, plan).loss(lambda output, y: output[y].sum(), torch.randn(BATCH, 4))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.body(x))


def attached(**options):
    torch.manual_seed(0)
    model = Net()
    return model, ManifoldMixup(model, ["body"], seed=0, **options), torch.randn(BATCH, 3)


def test_targets_serve_exactly_the_next_training_pass():
    model, mixup, x = attached(pairs="same_class")
    with pytest.raises(RuntimeError, match=r"this training pass has none: call mixup.batch\(y\)"):
        model(x)
    assert mixup.state_dict()["step"] == 0
    mixup.batch(Y)
    model.eval()(x)
    with torch.no_grad():
        model.train()(x)
    with mixup.paused():
        model(x)
    with mixup.using(sample_plan(BATCH, layers=["body"], alpha=1.0)):
        model(x)
    assert mixup.state_dict()["step"] == 0
    model(x)
    assert torch.equal(Y[mixup.plan.perm], Y)
    with pytest.raises(RuntimeError, match="this training pass has none"):
        model(x)


def test_targets_that_no_pass_used_are_noticed():
    model, mixup, x = attached(pairs="same_class")
    mixup.batch(Y)
    with pytest.raises(RuntimeError, match="called again before a training pass used"):
        mixup.batch(Y)
    mixup.batch(Y)  # the error has put everything back
    model(x)


def test_a_pass_that_is_not_mixed_uses_its_targets_up():
    model, mixup, x = attached(pairs="same_class", p=0.0)
    mixup.batch(Y)
    model(x)
    assert mixup.plan is None
    mixup.batch(Y)


def test_targets_of_another_batch_are_refused_and_draw_nothing():
    model, mixup, x = attached(pairs="same_class")
    mixup.batch(Y[:5])
    with pytest.raises(
        ValueError, match=r"given targets of shape \(5,\), but this pass has 8 examples"
    ):
        model(x)
    assert mixup.state_dict()["step"] == 0
    mixup.batch(Y)
    model(x)


@pytest.mark.parametrize(
    ("rules", "y"),
    [({"pairs": "same_class"}, Y.float()), ({"label": Remix(COUNTS)}, Y + 1)],
)
def test_targets_that_a_rule_refuses_draw_nothing(rules, y):
    model, mixup, x = attached(**rules)
    mixup.batch(y)
    with pytest.raises((TypeError, ValueError), match="classes"):
        model(x)
    assert mixup.state_dict()["step"] == 0
    mixup.batch(Y)
    model(x)
    assert mixup.state_dict()["step"] == 1


FIVE = torch.arange(16) % 5
NUMBERS = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
ORDER = torch.randperm(16, generator=torch.Generator().manual_seed(1))


def loss_with(given, y, pairs, criterion):
    """Return the loss of a batch whose partners were drawn by some targets."""
    model = nn.Linear(4, 5)
    with ManifoldMixup(model, ["input"], pairs=pairs, seed=0) as mixup:
        wrapped = mixup.wrap(criterion)
        for _ in range(3):
            mixup.batch(given)
            wrapped(model(torch.randn(16, 4)), y)


def squares(output, y):
    return (output[:, :2] - y).square().mean()


CROSS = nn.CrossEntropyLoss()
OTHERS = {
    "another order": ("same_class", FIVE[ORDER], FIVE, CROSS),
    "another batch": ("other_class", (FIVE * 3 + 1) // 4, FIVE.roll(3), CROSS),
    "probabilities": ("same_class", FIVE[ORDER], torch.eye(5)[FIVE], CROSS),
    "numbers": (Near(1.0), NUMBERS[ORDER], NUMBERS, squares),
}
SAME = {
    "the same": ("same_class", FIVE, FIVE.clone(), CROSS),
    "coarser": ("same_class", FIVE // 2, FIVE, CROSS),
    "smoothed": ("other_class", FIVE, torch.eye(5)[FIVE] * 0.9 + 0.02, CROSS),
    "other units": (Near(1.0), 3 * NUMBERS - 1, NUMBERS, squares),
    "other numbers": (Near(1.0), NUMBERS[:, 0], NUMBERS, squares),
}


@pytest.mark.parametrize(("pairs", "given", "y", "criterion"), OTHERS.values(), ids=OTHERS.keys())
def test_partners_by_the_targets_of_another_batch_are_warned_of(pairs, given, y, criterion):
    with pytest.warns(UserWarning, match="those of another batch, or in another order") as warned:
        loss_with(given, y, pairs, criterion)
    assert [one.filename for one in warned] == [__file__]


@pytest.mark.parametrize(("pairs", "given", "y", "criterion"), SAME.values(), ids=SAME.keys())
def test_partners_by_what_the_targets_determine_are_not(pairs, given, y, criterion):
    loss_with(given, y, pairs, criterion)


def test_targets_that_no_rule_needs_are_only_counted():
    model, mixup, x = attached()
    plain, other, _ = attached()
    mixup.batch({"class": Y})
    model(x)
    plain(x)
    assert torch.equal(mixup.plan.perm, other.plan.perm)
    mixup.batch(Y[:5])
    with pytest.raises(ValueError, match="this pass has 8 examples"):
        model(x)


def partners_of(model, mixup, x, y, steps=3):
    found = []
    for _ in range(steps):
        mixup.batch(y)
        model(x)
        found.append(mixup.plan.perm)
    return torch.stack(found)


@pytest.mark.parametrize(
    ("pairs", "y"),
    [("same_class", Y), ("other_class", Y), (Near(0.5), Y.float())],
    ids=["same class", "other class", "near"],
)
def test_a_resumed_run_draws_the_same_partners(pairs, y):
    model, mixup, x = attached(pairs=pairs)
    first, state = partners_of(model, mixup, x, y), mixup.state_dict()
    rest = partners_of(model, mixup, x, y)
    assert not torch.equal(rest, first)
    twin, resumed, _ = attached(pairs=pairs)
    resumed.load_state_dict(state)
    assert torch.equal(partners_of(twin, resumed, x, y), rest)


def test_the_text_names_the_rules():
    _, mixup, _ = attached(pairs=Near(0.5), label=Remix(COUNTS))
    assert "pairs=Near(bandwidth=0.5), label=Remix(4 classes, kappa=3.0, tau=0.5)" in repr(mixup)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"pairs": "same"}, ValueError, "'any', 'same_class', 'other_class', Near"),
        ({"pairs": 3}, TypeError, "pairs must be a name, Near"),
        ({"label": 0.5}, TypeError, "label must be Remix"),
    ],
)
def test_what_is_no_rule_is_refused_when_attaching(options, error, says):
    model = Net()
    with pytest.raises(error, match=says):
        ManifoldMixup(model, ["body"], **options)
    ManifoldMixup(model, ["body"])  # nothing was left attached


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Near(0.0), "bandwidth must be above 0"),
        (lambda: Near(math.inf), "bandwidth must be above 0 and finite"),
        (lambda: Near(True), "bandwidth must be above 0"),
        (lambda: Remix([5]), "at least two classes"),
        (lambda: Remix([5, 0]), "at least 1 of"),
        (lambda: Remix(COUNTS, kappa=1.0), "kappa must be above 1"),
        (lambda: Remix(COUNTS, tau=1.5), "tau must be between 0 and 1"),
    ],
)
def test_rules_out_of_range_are_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"pairs": "same_class", "y": Y.float()}, TypeError, "needs classes.*torch.float32"),
        ({"pairs": "same_class", "y": torch.eye(8)}, TypeError, r"For probabilities, pass y.arg"),
        ({"pairs": "other_class", "y": [Y]}, TypeError, "needs a tensor of targets, but y is a li"),
        ({"pairs": Near(1.0), "y": Y}, ValueError, "regression targets, but y holds torch.int64"),
        ({"pairs": Near(1.0), "y": Y / 0.0}, ValueError, "that are not finite"),
        ({"label": Remix(COUNTS), "y": Y + 1}, ValueError, "classes 0 to 3, but .* 1 to 4"),
        ({"label": Remix(COUNTS), "y": torch.eye(8)}, ValueError, "Remix needs classes"),
        ({"label": lambda lam, a, b: lam * 2 + 1, "y": Y}, ValueError, "must be between 0 and 1"),
        ({"label": lambda lam, a, b: lam[:3], "y": Y}, ValueError, r"label has \(3,\)"),
        ({"label": lambda lam, a, b: 0.5, "y": Y}, TypeError, "must return a tensor"),
        ({"pairs": lambda y, g: y.float(), "y": Y}, TypeError, "torch.int64, but gave torch.float"),
        ({"pairs": lambda y, g: y[:3], "y": Y}, ValueError, "for each of the 8 examples"),
        ({"pairs": lambda y, g: y - 1, "y": Y}, ValueError, "a row, 0 to 7"),
        ({"pairs": "same_class"}, ValueError, "depend on the targets: pass y"),
    ],
)
def test_targets_that_a_rule_cannot_use_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        sample_plan(BATCH, layers=["fc"], alpha=1.0, **options)
