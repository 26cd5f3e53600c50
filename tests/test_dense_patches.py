"""Targets with positions whose state is mixed by patches: each position by its own share."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from manifold_mixup import (
    Align,
    Holes,
    ManifoldMixup,
    MixedTarget,
    MixPlan,
    PatchUp,
    mix,
)
from with_positions import BATCH, CLASSES, TARGET, Segments, UNet
from zoo import gradients

PLAIN = nn.CrossEntropyLoss()
WAYS = {
    "soft": {"blend": PatchUp(block=3)},
    "soft, λ each": {"blend": PatchUp(block=3), "per_sample": True},
    "hard": {"blend": PatchUp(block=3, soft=False, share=0.5)},
}
BY_WAY = pytest.mark.parametrize("way", WAYS)
PERM = torch.tensor([1, 0, 3, 4, 5, 2])
REPEATED = torch.tensor([1, 0, 0, 4, 5, 1])
WEIGHTS = torch.tensor([0.5, 2.0, 1.3], dtype=torch.float64)


def attach(model, x, way="soft", layer="stem", **options):
    return ManifoldMixup(model, [layer], example=x, seed=0, **{**WAYS[way], **options})


def segmented(axes=2, stride=1, way="soft", model=None, sides=(8, 6)):
    """Return a mixed pass in float64: the attached mixup, the output and its sides."""
    torch.manual_seed(0)
    model = (model or Segments(axes, stride)).double()
    x = torch.randn(BATCH, 2, *sides[:axes], dtype=torch.float64)
    mixup = attach(model, x, way)
    output = model(x)
    return mixup, output, tuple(output.shape[2:])


def shares_of(plan, sides):
    """Return the shares of a plan's patches at positions of a grid, (batch, *sides), by a loop."""
    holes, lam = plan.weight, plan.lam.double().expand(BATCH)
    inside = holes.drawn[0].double()  # (channels, *sides of the state)
    grid = inside.shape[1:]
    shares = torch.zeros(BATCH, *sides, dtype=torch.float64)
    for place in torch.cartesian_prod(*(torch.arange(side) for side in sides)).view(-1, len(sides)):
        pairs = zip(place, sides, grid, strict=True)
        coarse = tuple(int(at) // (side // of) for at, side, of in pairs)
        for row in range(BATCH):
            kept = lam[row] if holes.soft else 0
            per_channel = [kept if float(hole[coarse]) else 1.0 for hole in inside]
            shares[(row, *place)] = sum(per_channel) / len(per_channel)
    return shares


def both_ends(loss, output, y, plan, shares):
    """Return ``share * loss(own) + (1 - share) * loss(partner)`` at each position."""
    return shares * loss(output, y) + (1 - shares) * loss(output, y[plan.perm])


def cross_entropies(output, y):
    return F.cross_entropy(output, y, reduction="none")


def assert_like(found, wanted, output):
    """Assert that two losses, and their gradients at the output, are equal; shares are float32."""
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=2e-7)
    one, other = (
        torch.autograd.grad(loss.sum(), output, retain_graph=True)[0] for loss in (found, wanted)
    )
    torch.testing.assert_close(one, other, rtol=1e-6, atol=2e-7)


def classes_of(sides, ignored=None):
    y = torch.randint(CLASSES, (BATCH, *sides), generator=torch.Generator().manual_seed(1))
    if ignored is not None:
        y.view(BATCH, -1)[torch.arange(BATCH), torch.arange(BATCH)] = ignored
        y[0, :3] = ignored
    return y


# What the state has is what the target gets


class Watched(nn.Module):
    """A segmenter that keeps the state before and after it was mixed."""

    def __init__(self, checkpointed=False):
        super().__init__()
        self.stem, self.after = nn.Conv2d(2, 4, 3, padding=1), nn.Identity()
        self.head, self.checkpointed = nn.Conv2d(4, CLASSES, 1), checkpointed

    def _through(self, x):
        return self.head(torch.relu(self.after(self.stem(x))))

    def forward(self, x):
        return (
            checkpoint(self._through, x, use_reentrant=False)
            if self.checkpointed
            else (self._through(x))
        )


def weight_in_state(model, x, mixup):
    """Return the weight of an example's own features that a pass really had, (batch, *sides).

    With it comes for which examples it can be told.
    """
    seen = {}
    handle = model.after.register_forward_hook(lambda *of: seen.update(mixed=of[2].detach()))
    with torch.no_grad():
        plain = model.stem.forward(x)
    output = model(x)
    handle.remove()
    partner = plain[mixup.plan.perm]
    weight = (seen["mixed"] - partner) / (plain - partner)
    alone = mixup.plan.perm == torch.arange(BATCH)  # with itself as partner, any weight is right
    return weight.mean(1), ~alone, output


@BY_WAY
@pytest.mark.parametrize("checkpointed", [False, True])
def test_the_share_of_a_position_is_the_mean_weight_of_its_features(way, checkpointed):
    torch.manual_seed(0)
    model = Watched(checkpointed).double()
    x = torch.randn(BATCH, 2, 8, 6, dtype=torch.float64)
    mixup = attach(model, x, way)
    found, told, output = weight_in_state(model, x, mixup)
    plan, y, shares = mixup.plan, classes_of((8, 6)), shares_of(mixup.plan, (8, 6))
    torch.testing.assert_close(found[told], shares[told], rtol=1e-6, atol=1e-6)
    mean = shares.flatten(1).mean(1).float()
    torch.testing.assert_close(plan.target_lam.expand(BATCH), mean)
    wanted = both_ends(cross_entropies, output, y, plan, shares).mean()
    loss = mixup.wrap(PLAIN)(output, y)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-7)
    loss.backward(retain_graph=True)
    found = gradients(model)
    model.zero_grad()
    mixup.target(None, output)  # what follows is mixed by hand
    wanted.backward()
    torch.testing.assert_close(found, gradients(model), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((8, 5), (1,)),
        ((4, 3, 8, 9), (3, 4)),
        ((8, 9, 5, 2), (1, 2)),
        ((8,), (1,)),
        ((8, 9), (1, 2)),
    ],
)
def test_features_of_any_number_of_dimensions(shape, dims):
    torch.manual_seed(0)
    x = torch.randn(BATCH, *shape)
    model = nn.Sequential(nn.Identity(), nn.Identity())
    blend = PatchUp(3, soft=False, dims=dims)
    mixup = ManifoldMixup(model, ["0"], check=False, blend=blend, seed=0)
    mixed = model(x)
    features = [dim for dim in range(1, x.ndim) if dim not in dims]
    kept = (mixed == x).double()
    kept = kept.mean(features, keepdim=True).flatten(1) if features else kept.flatten(1)
    others = mixup.plan.perm != torch.arange(BATCH)
    shares = shares_of(mixup.plan, [x.shape[dim] for dim in dims]).flatten(1)
    torch.testing.assert_close(kept[others], shares[others])


# Class indices


CRITERIA = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "ignored": {"ignore_index": 255},
    "ignored, sum": {"ignore_index": 255, "reduction": "sum"},
    "weighted": {"weight": WEIGHTS},
    "weighted, ignored": {"weight": WEIGHTS, "ignore_index": 255},
    "smoothed": {"label_smoothing": 0.1},
    "all": {"weight": WEIGHTS, "ignore_index": 255, "label_smoothing": 0.2},
}


def by_hand(
    output, y, plan, shares, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """Return the loss position by position, from log-probabilities."""
    logs = output.log_softmax(1)
    total, divisor = 0, 0
    weight = torch.ones(CLASSES, dtype=torch.float64) if weight is None else weight
    for row in range(BATCH):
        for target, share in ((y[row], shares[row]), (y[plan.perm[row]], 1 - shares[row])):
            for place in torch.cartesian_prod(*map(torch.arange, target.shape)).view(
                -1, target.ndim
            ):
                place = tuple(place.tolist())
                at, right = logs[(row, slice(None), *place)], int(target[place])
                if right == ignore_index:
                    continue
                loss = -(1 - label_smoothing) * weight[right] * at[right]
                loss = loss - label_smoothing / CLASSES * (weight * at).sum()
                total = total + share[place] * loss
        divisor = divisor + sum(
            weight[int(right)] for right in y[row].flatten() if right != ignore_index
        )
    return total if reduction == "sum" else total / divisor


@BY_WAY
@pytest.mark.parametrize(("axes", "stride"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_class_for_each_position(way, axes, stride):
    mixup, output, sides = segmented(axes, stride, way)
    y = classes_of(sides)
    wanted = by_hand(output, y, mixup.plan, shares_of(mixup.plan, sides))
    assert_like(mixup.wrap(PLAIN)(output, y), wanted, output)


@BY_WAY
@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_divisor_is_that_of_the_plain_loss(way, criterion):
    options = CRITERIA[criterion]
    mixup, output, sides = segmented(way=way, sides=(4, 3))
    y = classes_of(sides, options.get("ignore_index"))
    assert 0 < mixup.plan.weight.drawn.double().mean() < 1
    wanted = by_hand(output, y, mixup.plan, shares_of(mixup.plan, sides), **options)
    assert_like(mixup.wrap(nn.CrossEntropyLoss(**options))(output, y), wanted, output)
    assert_like(mixup.wrap(F.cross_entropy)(output, y, **options), wanted, output)
    if not options.get("label_smoothing"):
        found = mixup.wrap(nn.NLLLoss(**options))(output.log_softmax(1), y)
        assert_like(found, wanted, output)


@BY_WAY
def test_losses_that_are_not_reduced_stay_so(way):
    mixup, output, sides = segmented(way=way)
    y, plan, shares = classes_of(sides), mixup.plan, shares_of(mixup.plan, sides)

    def mine(output, y):
        return cross_entropies(output, y).square()

    for criterion in (nn.CrossEntropyLoss(reduction="none"), mine):
        found = mixup.wrap(criterion)(output, y)
        assert found.shape == (BATCH, *sides)
        assert_like(found, both_ends(criterion, output, y, plan, shares), output)


def test_flat_tokens_follow_the_grid_row_by_row():
    mixup, output, _ = segmented()
    shares = shares_of(mixup.plan, (8, 6)).flatten(1)
    y, flat = classes_of((48,)), output.flatten(2)
    wanted = by_hand(flat, y, mixup.plan, shares)
    assert_like(mixup.wrap(PLAIN)(flat, y), wanted, output)
    soft = mixup.target(y, output).soft(CLASSES)
    one_hot = F.one_hot(y, CLASSES).movedim(-1, 1)
    wanted = shares[:, None] * one_hot + (1 - shares[:, None]) * one_hot[mixup.plan.perm]
    torch.testing.assert_close(soft.double(), wanted, rtol=0, atol=1e-6)


def test_partners_of_several_have_a_divisor_each():
    torch.manual_seed(0)
    weight = torch.rand(1, 8, 6)
    plan = MixPlan("x", 0.5, REPEATED, weight=weight)
    output, y = torch.randn(BATCH, CLASSES, 8, 6, dtype=torch.float64), classes_of((8, 6), 255)
    output.requires_grad_()
    criterion = nn.CrossEntropyLoss(ignore_index=255)
    own, partner = (
        (share * F.cross_entropy(output, target, reduction="none", ignore_index=255)).sum()
        / (target != 255).sum()
        for share, target in ((weight.double(), y), (1 - weight.double(), y[REPEATED]))
    )
    assert_like(MixedTarget(y, plan).loss(criterion, output), own + partner, output)


# Numbers


@BY_WAY
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "criterion", [nn.MSELoss(), nn.BCEWithLogitsLoss(reduction="sum"), nn.L1Loss()]
)
def test_maps_are_interpolated_by_position(way, stride, criterion):
    mixup, output, sides = segmented(stride=stride, way=way)
    y = torch.rand(BATCH, CLASSES, *sides, dtype=torch.float64)
    shares = shares_of(mixup.plan, sides)[:, None]
    mixed = shares * y + (1 - shares) * y[mixup.plan.perm]
    assert_like(mixup.wrap(criterion)(output, y), criterion(output, mixed), output)


@BY_WAY
@pytest.mark.parametrize(
    "name", ["mse_loss", "binary_cross_entropy_with_logits", "soft_margin_loss"]
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_maps_at_both_ends(way, name, reduction):
    mixup, output, sides = segmented(way=way, sides=(4, 3))
    y = torch.rand(BATCH, CLASSES, *sides, dtype=torch.float64)
    loss, shares = getattr(F, name), shares_of(mixup.plan, sides)[:, None]
    wanted = both_ends(lambda o, t: loss(o, t, reduction="none"), output, y, mixup.plan, shares)
    wanted = {"mean": wanted.mean(), "sum": wanted.sum(), "none": wanted}[reduction]
    found = mixup.wrap(loss, targets="ends")(output, y, reduction=reduction)
    assert_like(found, wanted, output)


@BY_WAY
def test_soft_labels_of_positions(way):
    mixup, output, sides = segmented(way=way)
    y = torch.rand(BATCH, CLASSES, *sides, dtype=torch.float64).softmax(1)
    shares = shares_of(mixup.plan, sides)[:, None]
    mixed = shares * y + (1 - shares) * y[mixup.plan.perm]
    assert_like(mixup.wrap(PLAIN)(output, y), F.cross_entropy(output, mixed), output)
    unreduced = mixup.wrap(nn.CrossEntropyLoss(reduction="none"))(output, y)  # at both ends
    assert_like(unreduced, F.cross_entropy(output, mixed, reduction="none"), output)
    torch.testing.assert_close(mixup.target(y, output).soft(CLASSES), mixed, rtol=0, atol=1e-6)


def test_weights_of_positions_go_with_their_targets():
    mixup, output, sides = segmented()
    y, plan, shares = classes_of(sides), mixup.plan, shares_of(mixup.plan, sides)
    weights = torch.rand(BATCH, *sides, dtype=torch.float64)

    def weighted(output, y, weights):
        return cross_entropies(output, y) * weights

    found = mixup.wrap(weighted, with_target="weights")(output, y, weights)
    wanted = shares * weighted(output, y, weights)
    wanted = wanted + (1 - shares) * weighted(output, y[plan.perm], weights[plan.perm])
    assert_like(found, wanted, output)
    with pytest.raises(ValueError, match=r"'target' has positions.*'weights' has none"):
        mixup.wrap(
            lambda o, y, weights: weighted(o, y, weights[:, None, None]), with_target="weights"
        )(output, y, torch.rand(BATCH))


def test_both_kinds_of_targets_in_one():
    mixup, output, sides = segmented()
    plan, shares = mixup.plan, shares_of(mixup.plan, sides)
    y = {"kind": classes_of(sides), "height": torch.rand(BATCH, *sides, dtype=torch.float64)}

    def both(output, y):
        error = (output.mean(1) - y["height"]).square()
        return cross_entropies(output, y["kind"]) + error

    of = lambda kind, height: both(output, {"kind": kind, "height": height})  # noqa: E731
    kinds, heights = ((part, part[plan.perm]) for part in y.values())
    wanted = shares * of(kinds[0], heights[0]) + (1 - shares) * of(kinds[1], heights[1])
    assert_like(mixup.wrap(both)(output, y), wanted, output)
    height = shares * heights[0] + (1 - shares) * heights[1]
    wanted = shares * of(kinds[0], height) + (1 - shares) * of(kinds[1], height)
    assert_like(mixup.wrap(both, targets="mix")(output, y), wanted, output)


def test_a_target_with_the_batch_at_dimension_1():
    torch.manual_seed(0)
    plan = MixPlan("x", 0.5, PERM, weight=torch.rand(1, 8))
    y = torch.randint(CLASSES, (8, BATCH))
    output = torch.randn(8, BATCH, CLASSES, dtype=torch.float64, requires_grad=True)

    def loss(output, y):
        return F.cross_entropy(output.movedim(-1, 1), y, reduction="none")

    shares = plan.weight.mT.double()
    wanted = shares * loss(output, y) + (1 - shares) * loss(output, y[:, PERM])
    assert_like(MixedTarget(y, plan, batch_dim=1).loss(loss, output), wanted, output)


# Labels


@BY_WAY
@pytest.mark.parametrize("stride", [1, 2])
def test_soft_labels_and_accuracy(way, stride):
    mixup, output, sides = segmented(stride=stride, way=way)
    y, plan, shares = classes_of(sides, 255), mixup.plan, shares_of(mixup.plan, sides)
    mixed = mixup.target(y, output)
    counts, others = y != 255, y[plan.perm] != 255
    right = (output.argmax(1) == y) & counts, (output.argmax(1) == y[plan.perm]) & others
    wanted = (shares * right[0] + (1 - shares) * right[1]).sum()
    wanted = wanted / (shares * counts + (1 - shares) * others).sum()
    torch.testing.assert_close(mixed.accuracy(output, 255).double(), wanted, rtol=1e-5, atol=0)
    y = classes_of(sides)
    one_hot = F.one_hot(y, CLASSES).movedim(-1, 1)
    wanted = shares[:, None] * one_hot + (1 - shares[:, None]) * one_hot[plan.perm]
    found = mixup.target(y, output).soft(CLASSES)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)
    soft = torch.rand(BATCH, CLASSES, *sides).softmax(1)
    found = mixup.target(soft, output).accuracy(output)
    labels = soft.argmax(1)
    right = output.argmax(1) == labels, output.argmax(1) == labels[plan.perm]
    wanted = (shares * right[0] + (1 - shares) * right[1]).mean()
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)


# Plans by hand, and the patches of all channels


@pytest.mark.parametrize("rows", [1, BATCH])
def test_explicit_weights_count_by_position(rows):
    torch.manual_seed(0)
    plan = MixPlan("x", 0.5, PERM, weight=torch.rand(rows, 4, 3))
    output = torch.randn(BATCH, CLASSES, 8, 6, dtype=torch.float64, requires_grad=True)
    shares = plan.weight.double().repeat_interleave(2, 1).repeat_interleave(2, 2)
    y = classes_of((8, 6))
    found = MixedTarget(y, plan).loss(PLAIN, output)
    assert_like(found, by_hand(output, y, plan, shares.expand(BATCH, 8, 6)), output)
    z = torch.rand(BATCH, CLASSES, 8, 6, dtype=torch.float64)
    mixed = shares[:, None] * z + (1 - shares[:, None]) * z[PERM]
    assert_like(MixedTarget(z, plan).loss(nn.MSELoss(), output), F.mse_loss(output, mixed), output)


def dice(output, y):
    """Return one number for the batch."""
    hot = F.one_hot(y, CLASSES).movedim(-1, 1)
    return 1 - 2 * (output.softmax(1) * hot).sum() / (output.softmax(1) + hot).sum()


def test_hard_patches_of_all_channels_select_for_any_criterion():
    mixup, output, sides = segmented(way="hard", model=OneChannel())
    plan, y = mixup.plan, classes_of(sides)
    kept = ~plan.weight.drawn[:, 0]
    assert 0 < kept.float().mean() < 1
    selected = torch.where(kept, y, y[plan.perm])
    assert torch.equal(mixup.wrap(dice)(output, y), dice(output, selected))
    one_hot = F.one_hot(selected, CLASSES).movedim(-1, 1).float()
    assert torch.equal(mixup.target(y, output).soft(CLASSES), one_hot)
    accuracy = mixup.target(y, output).accuracy(output)
    assert accuracy == (output.argmax(1) == selected).float().mean()


class OneChannel(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(1, CLASSES, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.stem(x)))


@pytest.mark.parametrize("way", ["soft", "hard"])
def test_all_that_crosses_a_layer_has_the_same_patches(way):
    torch.manual_seed(0)
    model = UNet().double()
    x = torch.randn(BATCH, 2, 8, 12, dtype=torch.float64)
    mixup = attach(model, x, way, layer="down2")
    output = model(x)
    plan, y = mixup.plan, classes_of((8, 12))
    assert plan.weight.together
    assert plan.weight.drawn.shape == (1, 1, 4, 6)
    shares = shares_of(plan, (8, 12))
    loss = mixup.wrap(PLAIN)(output, y)
    torch.testing.assert_close(loss, by_hand(output, y, plan, shares), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("lam", [0.0, 0.4, 1.0])
def test_all_or_nothing(soft, lam):
    x, y = torch.randn(BATCH, 4, 8, 6), classes_of((8, 6))
    output = torch.randn(BATCH, CLASSES, 8, 6)
    model = nn.Sequential(nn.Identity(), nn.Identity())
    mixup = ManifoldMixup(model, ["0"], check=False, blend=PatchUp(1, dims=(2, 3)))
    everywhere = MixPlan("0", lam, PERM, weight=Holes(1, math.inf, soft, key=0))
    with mixup.using(everywhere):
        model(x)
    found = mixup.target(y).loss(PLAIN, output)
    share = lam if soft else 0.0
    wanted = share * PLAIN(output, y) + (1 - share) * PLAIN(output, y[PERM])
    torch.testing.assert_close(found, wanted)
    nowhere = MixPlan("0", lam, PERM, weight=torch.ones(1, 8, 6))
    torch.testing.assert_close(MixedTarget(y, nowhere).loss(PLAIN, output), PLAIN(output, y))


def test_an_infinite_loss_without_a_share_does_not_count():
    plan = MixPlan("x", 0.5, PERM, weight=torch.ones(1, 2).index_fill(1, torch.tensor([0]), 0.0))
    output = torch.full((BATCH, CLASSES, 2), 0.1)
    output[0, 1, 0] = -math.inf
    y = torch.zeros(BATCH, 2, dtype=torch.long)
    y[0] = 1  # whose first position is the partner's in the state
    loss = MixedTarget(y, plan).loss(nn.CrossEntropyLoss(reduction="none"), output)
    assert loss.isfinite().all()


# Compiled, recomputed, copied


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize(
    "way", [pytest.param("soft", marks=pytest.mark.thorough), "soft, λ each", "hard"]
)
def test_compiled_code_tells_the_shares(way):
    torch.manual_seed(0)
    eager = Segments()
    model, x, y = copy.deepcopy(eager), torch.randn(BATCH, 2, 8, 6), classes_of((8, 6))
    compiled = torch.compile(model, backend="aot_eager")
    found = []
    for one in (eager, compiled):
        mixup = attach(one, x, way)
        output = one(x)
        loss = mixup.wrap(PLAIN)(output, y)
        loss.backward()
        found.append((loss.detach(), mixup.target(y, output).soft(CLASSES)))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(gradients(model), gradients(eager))


@BY_WAY
def test_a_plan_can_be_stored_and_used_again(way):
    torch.manual_seed(0)
    model, x, y = Segments(), torch.randn(BATCH, 2, 8, 6), classes_of((8, 6))
    mixup = attach(model, x, way)
    output = model(x)
    loss = mixup.wrap(PLAIN)(output, y)
    stored = io.BytesIO()
    torch.save(mixup.plan, stored)
    stored.seek(0)
    plan = torch.load(stored, weights_only=False)
    assert torch.equal(MixedTarget(y, plan).loss(PLAIN, output), loss)
    with mixup.using(plan):
        again = model(x)
    assert torch.equal(again, output)
    assert torch.equal(mixup.wrap(PLAIN)(again, y), loss)


def test_patches_of_another_state_are_refused():
    mixup, _, _ = segmented()
    plan = mixup.plan
    with pytest.raises(ValueError, match=r"channels and sides \(4, 8, 6\).*has \(5, 8, 6\)"):
        mix(torch.randn(BATCH, 5, 8, 6), plan, dims=(2, 3))
    with pytest.raises(ValueError, match=r"sides \(8, 6\)"):
        mix(torch.randn(BATCH, 4, 8, 8), plan, dims=(2, 3))


def test_patches_move_with_their_plan():
    mixup, _, _ = segmented()
    assert mixup.plan.to("meta").weight.drawn.device.type == "meta"


# Refusals


def test_one_number_for_all_positions_is_refused_with_the_way_out():
    mixup, output, sides = segmented()
    y = classes_of(sides)
    with pytest.raises(
        TypeError, match=r"\(6, 8, 6\) has these positions.*dice returned shape \(\).*blend=Cut\(\)"
    ):
        mixup.wrap(dice)(output, y)
    share = mixup.plan.target_lam
    wanted = share * dice(output, y) + (1 - share) * dice(output, y[mixup.plan.perm])
    torch.testing.assert_close(mixup.wrap(dice, dense=False)(output, y), wanted)
    for one in (
        lambda o, t: cross_entropies(o, t).mean((1, 2)),  # of each example
        lambda o, t: cross_entropies(o, t).flatten(),  # in one row
        lambda o, t: (cross_entropies(o, t), t.sum()),
    ):
        with pytest.raises(TypeError, match="needs a loss for each"):
            mixup.wrap(one)(output, y)


def test_losses_whose_positions_can_be_read_in_two_ways_are_refused():
    plan, y = MixPlan("x", 0.5, PERM, weight=torch.rand(1, 4, 4)), torch.rand(BATCH, 4, 4, 4, 4)
    mixed = MixedTarget(y, plan, dense=(2, 3))
    with pytest.raises(TypeError, match="needs a loss for each"):
        mixed.loss(lambda output, y: (output - y).square().mean(1), torch.zeros_like(y))


def test_a_criterion_that_reduces_by_an_unknown_rule_is_refused():
    mixup, output, sides = segmented()

    def largest(output, y, reduction="max"):
        losses = cross_entropies(output, y)
        return losses if reduction == "none" else losses.max()

    with pytest.raises(TypeError, match=r"largest reduces the losses.*blend=Cut"):
        mixup.wrap(largest)(output, classes_of(sides))


def test_positions_that_were_moved_have_no_targets():
    torch.manual_seed(0)
    model, x = Segments(), torch.randn(BATCH, 2, 8, 6)
    mixup = ManifoldMixup(model, ["stem"], example=x, blend=Align(rounds=2), seed=0)
    output = model(x)
    with pytest.raises(TypeError, match=r"moved onto others.*PatchUp\(\) or Cut\(\).*dense=False"):
        mixup.wrap(PLAIN)(output, classes_of((8, 6)))
    with pytest.raises(TypeError, match="moved onto others"):
        mixup.target(classes_of((8, 6)), output).soft(CLASSES)


def test_a_plan_that_does_not_hold_its_patches_is_refused():
    y, output = classes_of((8, 6)), torch.randn(BATCH, CLASSES, 8, 6)
    for label in (None, 0.5):
        plan = MixPlan("x", 0.5, PERM, weight=Holes(3, 0.5, soft=True, key=0), label=label)
        with pytest.raises(RuntimeError, match=r"no pass has completed it.*mixup.plan after"):
            MixedTarget(y, plan).loss(PLAIN, output)
    assert MixedTarget(TARGET, plan).loss(PLAIN, torch.randn(BATCH, CLASSES)).isfinite()
