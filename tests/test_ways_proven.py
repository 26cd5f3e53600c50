"""Every way of mixing against accounts of its own: the proof by numbers, models split by hand."""

import pytest
import torch
from torch import nn

from manifold_mixup import (
    Align,
    Cut,
    DrawnNoise,
    Holes,
    Interpolate,
    ManifoldMixup,
    MixPlan,
    Noise,
    OneOf,
    PatchUp,
    Remix,
    SimilarityKernel,
    _operators,
    mix,
)
from manifold_mixup._attach.grids import Grids
from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._transport import Aligned, Transport
from manifold_mixup._weigh.similarity import share_of_pairs
from states import randn
from with_positions import BATCH, CLASSES, TARGET, TimeFirst, Tokens, build, example
from zoo import gradients, plain_labels

WAYS = {
    "interpolated": Interpolate(),
    "cut": Cut(),
    "soft patches": PatchUp(block=3),
    "hard patches": PatchUp(block=3, soft=False),
    "similarity": SimilarityKernel(),
    "aligned": Align(),
    "one of two": OneOf((Cut(), 1), (PatchUp(block=3, soft=False), 1)),
}
THOROUGH = pytest.mark.thorough
# The ways that are tried in the first of two models, and in the second; more would repeat these.
QUICK = {
    (0, ""): {"interpolated", "hard patches", "similarity", "aligned", "one of two"},
    (0, "noisy"): {"cut", "soft patches"},
    (1, ""): {"similarity", "aligned"},
    (1, "noisy"): {"soft patches"},
}


def cases(*models):
    """Return every way in two models, with and without noise."""
    return [
        pytest.param(model, noise, way, marks=() if way in QUICK[number, noise] else THOROUGH)
        for number, model in enumerate(models)
        for noise in ("", "noisy")
        for way in WAYS
    ]


LAYERS = {
    "maps": ["input", "conv1", "conv3"],
    "tokens": ["input", "block1", "block2"],
    "channels last": ["input", "fc1", "fc2"],
    "reentrant": ["conv2"],
}


# The proof


@pytest.mark.parametrize(("name", "noise", "way"), cases("maps", "tokens"))
def test_valid_layers_are_proven(name, noise, way):
    model, noise = build(name), Noise() if noise else None
    x = example(model)
    mixup = ManifoldMixup(model, LAYERS[name], example=x, blend=WAYS[way], noise=noise)
    report = mixup.verify(x)
    assert [proof.layer for proof in report.layers] == LAYERS[name]
    assert report.ok, report


class BypassedMap(nn.Module):
    """A residual path around a convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.branch = (nn.Conv2d(n, 4, 3, padding=1) for n in (2, 4))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        h = torch.relu(self.stem(x))
        return self.head((h + self.branch(h)).mean((2, 3)))

    def example(self):
        return torch.randn(BATCH, 2, 6, 5)


class BypassedTokens(Tokens):
    """A residual path around a layer of tokens."""

    def __init__(self):
        super().__init__()
        self.branch = nn.Linear(8, 8)

    def forward(self, x):
        h = self.block1(self._tokens(x))
        return self.head(self.block2(h + self.branch(h))[:, 0])


@pytest.mark.parametrize(("make", "noise", "way"), cases(BypassedMap, BypassedTokens))
def test_a_bypassed_layer_fails(make, noise, way):
    """This shows that the test above can fail."""
    torch.manual_seed(0)
    model, noise = make(), Noise() if noise else None
    mixup = ManifoldMixup(model, ["branch"], check=False, blend=WAYS[way], noise=noise)
    (proof,) = mixup.verify(example(model)).layers
    assert proof.verdict == "failed"
    assert "bypasses" in proof.reason


DIMS = {"dims": (2, 3)}
# Ways of mixing, and what the proof weighs positions by.
WEIGHED = {
    "cut": (Cut(**DIMS), torch.Tensor),
    "soft patches": (PatchUp(block=3, **DIMS), Holes),
    "hard patches": (PatchUp(block=3, soft=False, **DIMS), Holes),
    "aligned": (Align(**DIMS), Aligned),
    "some are cut": (OneOf((Interpolate(), 1), (Cut(**DIMS), 1)), torch.Tensor),
    "cut or patches": (OneOf((Cut(**DIMS), 1), (PatchUp(**DIMS), 1)), Holes),
    "by layer": ({"conv1": Cut(**DIMS), "*": Interpolate()}, torch.Tensor),
}


@pytest.mark.parametrize("lam", [0.0, 1.0])
@pytest.mark.parametrize("way", WEIGHED)
def test_at_the_ends_every_position_is_the_partner_s_or_its_own(way, lam):
    blend, kind = WEIGHED[way]
    x, perm = randn(4, 3, 9, 8), torch.arange(4).roll(1)
    plan = Grids(blend).as_weights(MixPlan("conv1", lam, perm))
    assert isinstance(plan.weight, kind)
    assert torch.equal(mix(x, plan, **DIMS), x if lam else x[perm])
    assert plan.target_lam == lam


@pytest.mark.parametrize("way", [way for way in WEIGHED if way != "aligned"])
def test_between_the_ends_every_position_is_interpolated(way):
    x, perm = randn(4, 3, 9, 8), torch.arange(4).roll(1)
    plan = Grids(WEIGHED[way][0]).as_weights(MixPlan("conv1", 0.25, perm))
    assert plan.weight is not None
    torch.testing.assert_close(mix(x, plan, **DIMS), 0.25 * x + 0.75 * x[perm])


@pytest.mark.parametrize("blend", [Interpolate(), SimilarityKernel()], ids=str)
def test_a_way_without_positions_is_proven_by_lam(blend):
    plan = MixPlan("conv1", 0.0, torch.arange(4).roll(1))
    assert Grids(blend).as_weights(plan) is plan


@pytest.mark.parametrize("way", ["cut", "soft patches", "aligned"])
def test_the_proof_mixes_by_these_weights(way, monkeypatch):
    """λ alone would permute the outputs too, and prove nothing about the weights."""
    kinds, weighed = set(), Grids.as_weights

    def noting(grids, plan):
        found = weighed(grids, plan)
        kinds.add(type(found.weight))
        return found

    monkeypatch.setattr(Grids, "as_weights", noting)
    model = build("maps")
    x = example(model)
    assert ManifoldMixup(model, ["conv1"], example=x, blend=WAYS[way]).verify(x).ok
    assert kinds == {WEIGHED[way][1]}


@pytest.mark.parametrize(
    "rules",
    [
        {"pairs": "same_class"},
        {"pairs": "other_class", "blend": Cut()},
        {"label": Remix((9, 1, 1))},
        {"pairs": "same_class", "label": Remix((9, 1, 1)), "noise": Noise()},
    ],
    ids=lambda rules: ", ".join(rules),
)
def test_the_proof_needs_no_targets_and_draws_nothing(rules):
    model = build("maps")
    x = example(model)
    mixup = ManifoldMixup(model, ["conv1"], example=x, seed=0, **rules)
    assert mixup.verify(x).ok
    assert mixup.state_dict()["step"] == 0
    mixup.batch(TARGET)
    assert mixup.verify(x).ok
    model(x)  # the targets were left for it
    assert mixup.state_dict()["step"] == 1


# Similarity, in a model


def before_the_mix(module, x, model):
    """Run the model, and return the state that a layer gives before it is mixed."""
    seen = []
    handle = module.register_forward_hook(
        lambda module, args, output: seen.append(output.detach().clone()), prepend=True
    )
    model(x)
    handle.remove()
    (state,) = seen
    return state


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize(
    ("make", "layer", "batch_dim"),
    [(lambda: build("maps"), "conv1", 0), (lambda: build("tokens"), "block1", 0),
     (TimeFirst, "first", 1)],
    ids=["maps", "tokens", "time first"],
)  # fmt: skip
def test_lam_of_a_pair_is_that_of_its_states_before_the_mix(make, layer, batch_dim, per_sample):
    model, twin = make(), make()
    x, kernel = example(model), SimilarityKernel(tau_max=1.5, tau_std=0.4)
    options = {"example": x, "batch_dim": batch_dim, "per_sample": per_sample, "seed": 0}
    mixup = ManifoldMixup(model, [layer], blend=kernel, **options)
    usual = ManifoldMixup(twin, [layer], **options)  # which draws the same λ, and keeps it
    for _ in range(3):
        state = before_the_mix(model.get_submodule(layer), x, model)
        twin(x)
        found, drawn = mixup.plan, usual.plan
        assert torch.equal(found.perm, drawn.perm)
        share = share_of_pairs(kernel, drawn.lam, state.movedim(batch_dim, 0), drawn.perm)
        torch.testing.assert_close(found.lam, share)
        assert not torch.allclose(share, drawn.lam.expand(BATCH))


# Noise


def noisy_by_hand(x, noise):
    """Return ``x (1 + s_m U) + s_a N``, with the numbers that belong to the key."""
    uniform = 2 * _operators.numbers(noise.key, x.shape, x.device, normal=False) - 1
    normal = _operators.numbers(noise.key ^ 1, x.shape, x.device, normal=True)
    return x * (1 + noise.multiply * uniform) + noise.add * normal


def test_both_levels_of_noise_at_once():
    """What is multiplied is the state alone, and each level has the numbers it has alone."""
    x, zero = randn(50, 40), torch.tensor(0.0)
    add, multiply, key = torch.tensor(0.3), torch.tensor(0.2), torch.tensor(7)
    factor = DrawnNoise(zero, multiply, key).on(torch.ones(50, 40))
    shift = DrawnNoise(add, zero, key).on(torch.zeros(50, 40))
    assert factor.std() > 0.05
    assert shift.std() > 0.2
    torch.testing.assert_close(DrawnNoise(add, multiply, key).on(x), x * factor + shift)


def test_both_levels_are_drawn_in_a_model():
    model = build("maps")
    x, after = example(model), []
    mixup = ManifoldMixup(model, ["conv1"], example=x, noise=Noise(add=0.5, multiply=0.9), seed=0)
    model.conv1.register_forward_hook(lambda module, args, output: after.append(output.detach()))
    before = before_the_mix(model.conv1, x, model)
    plan = mixup.plan
    assert plan.noise.add > 0.01
    assert plan.noise.multiply > 0.01
    mixed = plan.lam * before + (1 - plan.lam) * before[plan.perm]
    torch.testing.assert_close(after[0], noisy_by_hand(mixed, plan.noise))


# Gradients, against a model split by hand


def each(share):
    return share.double().view(-1, 1, 1)


def rows_by_hand(rows, plan, grid):
    """Mix ``(batch, positions, features)``; the plan's numbers are constants."""
    partner, lam, weight = rows[plan.perm], each(plan.lam), plan.weight
    if isinstance(weight, Holes):
        holes = weight.patches(rows.shape[2:], grid, rows.device).flatten(2).transpose(1, 2)
        lam = torch.where(holes, lam if weight.soft else 0.0, 1.0)
    if isinstance(weight, Transport) and weight.moves_own:
        rows = weight.shares.mT @ rows
    elif isinstance(weight, Transport):
        partner = weight.shares @ partner
    return lam * rows + (1 - lam) * partner


def mixed_by_hand(h, plan, model):
    """Mix a state with positions: as rows of them, with class tokens by the label's share."""
    dims, first = model.dims(plan.layer), 0
    sides = grid = [h.shape[dim] for dim in dims]
    if isinstance(model, Tokens) and plan.layer != "input":
        grid, first = model.GRID, model.FIRST
    rows = h.flatten(dims[0], dims[-1]).movedim(dims[0], 1)
    classes, share = rows[:, :first], each(plan.target_lam)
    classes = share * classes + (1 - share) * classes[plan.perm]
    mixed = torch.cat([classes, rows_by_hand(rows[:, first:], plan, grid)], 1)
    mixed = mixed.movedim(1, dims[0]).unflatten(dims[0], sides)
    return mixed if plan.noise is None else noisy_by_hand(mixed, plan.noise)


def split_by_hand(model, x, plan):
    h = x
    for layer, stage in model.stages():
        h = stage(h)
        if layer == plan.layer:
            h = mixed_by_hand(h, plan, model)
    return h


EACH = {"per_sample": True}
DRAWN = {
    "soft patches": {"blend": WAYS["soft patches"]},
    "soft patches each": {"blend": WAYS["soft patches"], **EACH},
    "hard patches": {"blend": WAYS["hard patches"]},
    "similarity": {"blend": SimilarityKernel()},
    "similarity each": {"blend": SimilarityKernel(), **EACH},
    "aligned": {"blend": Align()},
    "aligned each": {"blend": Align(), **EACH},
    "noise": {"noise": Noise()},
    "noise each": {"noise": Noise(), **EACH},
    "noise on patches": {"blend": WAYS["soft patches"], "noise": Noise()},
    "noise on aligned": {"blend": Align(), "noise": Noise()},
}


# Every way in maps, and each kind of way in the other models.
ELSEWHERE = {
    "tokens": {"soft patches each", "similarity", "aligned each"},
    "channels last": {"hard patches", "aligned", "noise each"},
    "reentrant": {"noise on patches", "similarity each", "aligned"},
}


@pytest.mark.parametrize(
    ("way", "name"),
    [
        pytest.param(way, name, marks=() if way in ELSEWHERE.get(name, DRAWN) else THOROUGH)
        for way in DRAWN
        for name in LAYERS
    ],
)
def test_gradients_of_what_is_drawn_are_those_of_the_hand_split_model(way, name):
    """The state decides λ, transport and patches, but is no path of the gradient there."""
    model, oracle = build(name).double(), build(name).double()
    x = example(model).double()
    mixup = ManifoldMixup(model, LAYERS[name], example=x, seed=0, **DRAWN[way])
    criterion, layers = mixup.wrap(nn.CrossEntropyLoss()), set()
    for _ in range(6):
        output = model(x)
        criterion(output, TARGET).backward()
        plan = mixup.plan
        expected = split_by_hand(oracle, x, plan)
        soft = plain_labels(TARGET, CLASSES, plan).double()
        nn.functional.cross_entropy(expected, soft).backward()
        torch.testing.assert_close(output, expected)
        layers.add(plan.layer)
    assert layers == set(LAYERS[name])
    found = gradients(model)
    assert found.keys() == dict(model.named_parameters()).keys()
    torch.testing.assert_close(found, gradients(oracle))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "way", [Cut(), PatchUp(block=3), Align()], ids=["cut", "patches", "aligned"]
)
def test_a_layer_that_the_way_cannot_mix_is_not_proven(way, check):
    """With check=False too, and although interpolating at it would be proven."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    mixup = ManifoldMixup(model, ["1"], blend={"1": way}, check=check)
    (proof,) = mixup.verify(torch.randn(BATCH, 4)).layers
    assert proof.verdict == "failed"
    assert "cannot be used at '1': it has no positions" in proof.reason
    with pytest.raises(ValueError, match="positions"):
        model(torch.randn(BATCH, 4))
    assert torch.isfinite(model.eval()(torch.randn(BATCH, 4))).all()


def test_a_layer_with_fewer_positions_than_a_block_is_not_proven():
    model = build("maps")
    mixup = ManifoldMixup(model, ["conv1"], blend=PatchUp(block=9), check=False)
    (proof,) = mixup.verify(example(model)).layers
    assert proof.verdict == "failed"
    assert "fewer than the block of 9" in proof.reason


def test_a_layer_of_which_no_positions_are_known_is_not_proven(monkeypatch):
    """As where the model cannot be inspected."""
    model = build("maps")
    mixup = ManifoldMixup(model, ["conv1"], blend=Cut(), check=False)

    def refuse(*args, **kwargs):
        raise NotTraceable("no")

    monkeypatch.setattr("manifold_mixup._inspect.inspect_model", refuse)
    (proof,) = mixup.verify(example(model)).layers
    assert proof.verdict == "failed"
    assert "positions are not known" in proof.reason
