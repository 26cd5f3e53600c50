"""The ways of mixing: what is drawn, and what it means for a state, by closed forms."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from scipy import stats
from torch.nn import functional

from manifold_mixup import (
    Box,
    Cut,
    DrawnNoise,
    Holes,
    Interpolate,
    MixPlan,
    Noise,
    OneOf,
    PatchUp,
    SimilarityKernel,
    sample_plan,
)
from manifold_mixup._positions import Positions
from manifold_mixup._weigh.completion import completion_for
from manifold_mixup._weigh.place import Place
from manifold_mixup._weigh.similarity import beta_cdf, share_of_pairs
from states import randn

PERM = torch.tensor([1, 2, 0])


def drawn(seed=0, batch=3, **options):
    generator = torch.Generator().manual_seed(seed)
    return sample_plan(batch, layers=["a"], alpha=1.0, generator=generator, **options)


# Boxes

CENTRES = [0.0, 0.03, 0.5, 0.51, 0.97, 1.0]
SHARES = [0.0, 0.04, 0.25, 0.5, 0.9, 1.0]


@pytest.mark.parametrize("sides", [(7,), (1,), (8, 5), (1, 9), (4, 3, 6)], ids=str)
def test_a_box_has_the_borders_of_the_formula(sides):
    """At the border, with odd sides, on one axis, and with a side of one position."""
    for centre, share in itertools.product(itertools.product(CENTRES, repeat=len(sides)), SHARES):
        own = Box(centre, share).own(sides)
        assert own.shape == (1, *sides)
        inside = torch.ones(sides, dtype=torch.bool)
        count = 1
        for axis, (at, side) in enumerate(zip(centre, sides, strict=True)):
            half = share ** (1 / len(sides)) / 2
            low, high = max(0.0, at - half) * side, min(1.0, at + half) * side
            first, last = math.floor(low + 0.5), math.floor(high + 0.5)
            if min(abs(edge + 0.5 - round(edge + 0.5)) for edge in (low, high)) < 1e-6:
                break  # exactly between two positions, either is right
            along = torch.arange(side)
            along = (along >= first) & (along < last)
            inside &= along.view([-1 if axis == a else 1 for a in range(len(sides))])
            count *= last - first
        else:
            assert torch.equal(own[0], ~inside)
            plan = MixPlan("a", 0.0, PERM, weight=own)
            torch.testing.assert_close(plan.target_lam, torch.tensor(1 - count / math.prod(sides)))


def test_the_whole_box_and_none():
    for sides in [(5,), (4, 7), (1, 1), (2, 3, 5)]:
        assert not Box((0.5,) * len(sides), 1.0).own(sides).any()
        assert Box((0.5,) * len(sides), 0.0).own(sides).all()


def test_a_position_is_taken_if_its_centre_is_in_the_box():
    """So the share that is taken has no bias on a coarse grid; truncated sides would lose some."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(20_000, 3, generator=generator, dtype=torch.float64)
    share = torch.full((20_000,), 0.3, dtype=torch.float64)
    for axes, side in ((1, 4), (2, 4), (2, 7), (3, 5)):
        taken = 1 - Box(centres, share).own((side,) * axes).flatten(1).double().mean(1)
        half = 0.3 ** (1 / axes) / 2
        middles = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        chance = (middles + half).clamp(max=1) - (middles - half).clamp(min=0)
        spread = taken.std() / math.sqrt(len(taken))
        assert abs(taken.mean() - chance.mean() ** axes) < 6 * spread


def test_boxes_are_those_of_the_authors_up_to_rounding():
    """Their box, of clovaai/CutMix-PyTorch: a side of int(W * sqrt(1 - lam)), halved."""
    for seed in range(200):
        plan = drawn(seed, blend=Cut())
        own = plan.weight.own((32, 32))[0]
        ratio = math.sqrt(1 - plan.lam.item())
        cut = int(32 * ratio)
        bounds = []
        for axis in range(2):
            at = int(float(plan.weight.centre[axis]) * 32)
            bounds.append((max(0, at - cut // 2), min(32, at + cut // 2)))
        theirs = torch.ones(32, 32, dtype=torch.bool)
        theirs[slice(*bounds[0]), slice(*bounds[1])] = False
        # they truncate the centre and half the side, so that a border moves by up to two
        for dim in (0, 1):
            ours, those = ((~mask).any(dim).nonzero().flatten() for mask in (own, theirs))
            if len(ours) and len(those):
                assert abs(int(ours[0]) - int(those[0])) <= 2
                assert abs(int(ours[-1]) - int(those[-1])) <= 2
            else:
                assert max(len(ours), len(those)) <= 2


@pytest.mark.parametrize("sides", [(7,), (1,), (8, 5), (4, 3, 6)], ids=str)
def test_a_single_box_is_that_of_many(sides):
    """A single one is computed in Python, several by operators."""
    generator = torch.Generator().manual_seed(0)
    centres, shares = (
        torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((50, 3), (50,))
    )
    shares[:2] = torch.tensor([0.0, 1.0])
    many = Box(centres, shares)
    for row in range(50):
        one = Box(centres[row], shares[row])
        assert torch.equal(one.borders, many.borders[row])
        assert torch.equal(one.own(sides)[0], many.own(sides)[row])
        torch.testing.assert_close(one.weigh(sides)[1], many.weigh(sides)[1][row])
    own, share, _ = many.weigh(sides)
    torch.testing.assert_close(share, own.float().flatten(1).mean(1))


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_box_is_drawn_for_the_batch_or_for_each(per_sample):
    plan = drawn(blend=Cut(alpha=0.5), per_sample=per_sample, batch=5)
    assert plan.pending
    assert plan.weight.own((4, 6)).shape == (5 if per_sample else 1, 4, 6)
    torch.testing.assert_close(torch.as_tensor(plan.weight.share).float(), 1 - plan.lam)
    with pytest.raises(RuntimeError, match="no pass has run it"):
        assert plan.target_lam


def test_alpha_is_that_of_the_way():
    shares = [drawn(seed, blend=Cut(alpha=50.0)).lam.item() for seed in range(300)]
    assert 0.4 < min(shares) < max(shares) < 0.6 or torch.tensor(shares).std() < 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (((0.5, 1.2), 0.5), "centre must be between 0 and 1"),
        (((0.5,), 1.5), "share must be between 0 and 1"),
        (((0.1, 0.2, 0.3, 0.4), 0.5), "up to 3 axes"),
        ((torch.rand(4, 3), 0.5), "share must have shape"),
    ],
)
def test_boxes_that_are_none(given, message):
    with pytest.raises(ValueError, match=message):
        Box(*given)


# Holes


def completion_of(weight, x, *, lam=0.3, dims=(2, 3), several=False):
    plan = MixPlan("a", lam, torch.arange(len(x)).roll(1), weight=weight)
    place = Place(Positions(dims), (1,) * len(dims), several)
    return completion_for(plan, x, None, place)


@pytest.mark.parametrize("sides", [(9,), (9, 12), (7, 8, 9)], ids=str)
@pytest.mark.parametrize("block", [1, 3, 5])
def test_about_the_share_of_features_is_in_patches(sides, block):
    """Ghiasi et al.'s rate counts overlapping patches twice; what is left is 1 - (1 - γ')^cells."""
    holes = Holes(block, 0.3, soft=False, key=3)
    own = holes.own(torch.tensor(0.5), [2000], sides, torch.device("cpu"))
    assert own.shape == (1, 2000, *sides)
    rate = 0.3 * math.prod(side / (block * (side - block + 1)) for side in sides)
    kept = torch.ones(sides, dtype=torch.float64)
    for axis, side in enumerate(sides):
        at = torch.arange(side)
        cells = (at + block // 2).clamp(max=side - 1) - (at - block // 2).clamp(min=0) + 1
        kept = kept * cells.view([-1 if a == axis else 1 for a in range(len(sides))])
    expected = (1 - rate) ** kept
    found = own[0].double().mean(0)
    assert ((found - expected).abs() < 6 * (expected * (1 - expected) / 2000).sqrt()).all()


def test_patches_are_dilated_centres():
    holes = Holes(3, 0.2, soft=False, key=5)
    own = holes.own(torch.tensor(0.5), [4], (8, 8), torch.device("cpu"))
    gone = ~own[0]
    # every hole lies in a block of 3 × 3 holes, cut off at the border
    core = (
        functional.avg_pool2d(functional.pad(gone.float()[None], (1, 1, 1, 1), value=1.0), 3, 1)[0]
        > 0.999
    )
    again = functional.max_pool2d(core.float()[None], 3, 1, 1)[0] > 0
    assert torch.equal(gone, again & gone)
    assert torch.equal(gone & ~again, torch.zeros_like(gone))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("lam", [0.3, torch.tensor([0.1, 0.5, 0.9, 0.4])], ids=["one", "each"])
def test_the_label_is_the_mean_weight(soft, lam):
    x = randn(4, 6, 9, 9)
    found = completion_of(Holes(3, 0.5, soft, key=1), x, lam=lam)
    own = found.weight.own(torch.as_tensor(lam), [6], (9, 9), x.device)
    torch.testing.assert_close(found.label, own.float().flatten(1).mean(1).squeeze())
    if soft:  # u + (1 - u) λ, of the share u that is in no patch
        kept = Holes(3, 0.5, soft=False, key=1).own(torch.as_tensor(lam), [6], (9, 9), x.device)
        share = kept.float().mean()
        torch.testing.assert_close(found.label, share + (1 - share) * torch.as_tensor(lam))


@pytest.mark.parametrize("rate", [1e-4, 0.06, 0.5, 0.95])
def test_centres_of_patches_are_independent(rate):
    """On the CPU the gaps between them are drawn: as many as a coin for each position gives."""
    found = torch.stack(
        [
            Holes(1, rate, soft=False, key=key).patches([40], (25,), torch.device("cpu")).flatten()
            for key in range(200)
        ]
    ).double()
    count = found.numel()
    assert abs(found.mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / count)
    for lag in (1, 2, 25):
        both = (found[:, lag:] * found[:, :-lag]).mean()
        assert abs(both - rate**2) < 5 * math.sqrt(2 * rate**2 / count) + 5 / count
    per_draw = found.sum(1)
    assert 0.6 < per_draw.var() / (1000 * rate * (1 - rate)) < 1.5
    places = found.mean(0)  # no place is preferred, the first and the last neither
    for end in (places[:10], places[-10:]):
        assert abs(end.mean() - rate) < 5 * math.sqrt(rate * (1 - rate) / 2000) + 1e-3


def test_patches_that_are_all_or_nearly_none():
    for rate, expected in ((math.inf, 1.0), (1.0, 1.0), (1e-300, 0.0)):
        holes = Holes(1, rate, soft=False, key=0).patches([4], (5, 6), torch.device("cpu"))
        assert holes.float().mean() == expected


def test_the_same_key_gives_the_same_patches_and_another_others():
    one, two, other = (
        Holes(3, 0.4, soft=False, key=key).own(torch.tensor(0.5), [5], (9, 9), torch.device("cpu"))
        for key in (7, 7, 8)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_several_tensors_have_the_same_patches_in_all_channels():
    found = completion_of(Holes(3, 0.4, soft=False, key=1), randn(4, 6, 9, 9), several=True)
    assert found.weight.together
    own = found.weight.own(torch.tensor(0.3), [6], (9, 9), torch.device("cpu"))
    assert own.shape == (1, 1, 9, 9)


def test_a_patch_that_does_not_fit():
    with pytest.raises(ValueError, match=r"patches of 7 positions.*\(9, 5\)"):
        completion_of(Holes(7, 0.4, soft=False, key=1), randn(4, 6, 9, 5))


# Similarity


@pytest.mark.parametrize("a", [3e-3, 0.1, 0.7, 1.0, 1.3, 2.0, 8.0, 300.0, 1990.0, 2010.0, 1e5, 1e9])
def test_the_distribution_function_is_that_of_scipy(a):
    x = torch.tensor([0, 1e-9, 0.01, 0.3, 0.49, 0.4999, 0.5, 0.51, 0.8, 1], dtype=torch.float64)
    expected = torch.from_numpy(stats.beta.cdf(x.numpy(), a, a))
    torch.testing.assert_close(beta_cdf(x, torch.full_like(x, a)), expected, rtol=0, atol=3e-5)


def test_the_distribution_function_in_float32():
    """Some devices have no float64."""
    x = torch.linspace(0, 1, 41, dtype=torch.float64)
    for a in (0.01, 0.5, 1.0, 1.2, 30.0, 1990.0, 1e5):
        exact = beta_cdf(x, torch.full_like(x, a))
        found = beta_cdf(x.float(), torch.full_like(x, a).float())
        assert (found - exact).abs().max() < 2e-3


def test_the_average_pair_keeps_lam_and_near_pairs_are_mixed_most():
    kernel = SimilarityKernel()
    x = torch.tensor([[0.0], [1.0], [1.1], [3.0]])
    perm = torch.tensor([1, 2, 3, 0])
    squared = (x - x[perm]).square()[:, 0]
    ratio = squared / squared.mean()
    tau = torch.exp((ratio - 1) / (2 * 0.5**2))
    share = share_of_pairs(kernel, torch.tensor(0.3), x, perm)
    expected = stats.beta.cdf(0.3, tau.double().numpy(), tau.double().numpy())
    torch.testing.assert_close(share, torch.from_numpy(expected).float(), rtol=0, atol=1e-5)
    near, far = ratio.argmin(), ratio.argmax()
    assert abs(share[near] - 0.5) < abs(share[far] - 0.5)
    same = torch.zeros(4, 1)
    torch.testing.assert_close(
        share_of_pairs(kernel, torch.tensor(0.3), same, perm), torch.full((4,), 0.3)
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_similarity_does_not_depend_on_the_unit_of_the_states(scale):
    x, perm, lam = randn(6, 3), torch.arange(6).roll(1), torch.tensor(0.3)
    expected = share_of_pairs(SimilarityKernel(), lam, x, perm)
    torch.testing.assert_close(share_of_pairs(SimilarityKernel(), lam, scale * x, perm), expected)


def test_the_ends_stay_ends():
    for lam in (0.0, 1.0):
        share = share_of_pairs(
            SimilarityKernel(), torch.tensor(lam), randn(5, 3), torch.arange(5).roll(1)
        )
        assert torch.equal(share, torch.full((5,), lam))


# Noise


def test_no_noise_changes_no_bit():
    x = randn(4, 5)
    noise = DrawnNoise(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(1))
    assert torch.equal(noise.on(x), x)


def test_noise_has_its_levels_and_depends_on_the_key_alone():
    x = torch.ones(200_000)
    add = DrawnNoise(torch.tensor(0.3), torch.tensor(0.0), torch.tensor(5))
    multiply = DrawnNoise(torch.tensor(0.0), torch.tensor(0.2), torch.tensor(5))
    shift, scale = add.on(x) - 1, multiply.on(x) - 1
    assert abs(shift.std() - 0.3) < 0.004
    assert abs(shift.mean()) < 0.004
    assert scale.abs().max() <= 0.2
    assert abs(scale.std() - 0.2 / math.sqrt(3)) < 0.002
    assert torch.equal(add.on(x), add.on(x))
    assert not torch.equal(add.on(x), add.on(x, part=1))
    joined = torch.stack([shift / 0.3, scale / 0.2])
    assert abs(torch.corrcoef(joined)[0, 1]) < 0.02
    assert add.on(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert add.on(x.to(torch.complex64)).imag.std() > 0.2


def test_levels_are_those_of_the_authors():
    """0.4 and 0.2 times Beta(2, 5), whose mean is 2/7 and whose variance is 5/196."""
    plans = [drawn(seed, noise=Noise()) for seed in range(2000)]
    for name, most in (("add", 0.4), ("multiply", 0.2)):
        levels = torch.stack([getattr(plan.noise, name) for plan in plans]) / most
        assert abs(levels.mean() - 2 / 7) < 6 * math.sqrt(5 / 196 / 2000)
        assert abs(levels.var() - 5 / 196) < 0.005


# Several ways, and none


def test_several_ways_in_their_proportions():
    blend = OneOf((Interpolate(), 1), (Cut(), 2), (PatchUp(), 1))
    kinds = [type(drawn(seed, blend=blend).weight) for seed in range(2000)]
    for kind, share in ((type(None), 0.25), (Box, 0.5), (Holes, 0.25)):
        assert abs(kinds.count(kind) / 2000 - share) < 6 * math.sqrt(share * (1 - share) / 2000)


def test_what_is_drawn_without_a_way_is_what_it_was():
    plain, named = drawn(4), drawn(4, blend=Interpolate())
    noisy = drawn(4, noise=Noise())
    for plan in (named, noisy):
        assert torch.equal(plain.lam, plan.lam)
        assert torch.equal(plain.perm, plan.perm)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: Cut(alpha=0), ValueError, "above 0"),
        (lambda: Cut(alpha="1"), TypeError, "must be a number"),
        (lambda: Cut(dims=(-1, 1)), ValueError, "counted from 0"),
        (lambda: Cut(dims=(2, 2)), ValueError, "different"),
        (lambda: Cut(dims=("h",)), TypeError, "integers"),
        (lambda: Cut(dims={"a": (1, 2, 3, 4)}), ValueError, "one to three"),
        (lambda: PatchUp(block=4), ValueError, "odd"),
        (lambda: PatchUp(block=0), ValueError, "odd"),
        (lambda: PatchUp(share=0), ValueError, "above 0 and at most 1"),
        (lambda: PatchUp(share=1.5), ValueError, "above 0 and at most 1"),
        (lambda: SimilarityKernel(tau_std=0), ValueError, "above 0"),
        (lambda: Noise(add=-1), ValueError, "0 or more"),
        (lambda: Noise(multiply=math.inf), ValueError, "0 or more"),
        (lambda: OneOf(), ValueError, "at least one"),
        (lambda: OneOf(Cut()), TypeError, "pairs"),
        (lambda: OneOf((Cut(), 0)), ValueError, "above 0"),
        (lambda: OneOf((Cut, 1)), TypeError, "pairs"),
        (lambda: drawn(blend=Cut), TypeError, "the class Cut"),
        (lambda: drawn(noise=0.4), TypeError, "Noise"),
        (lambda: drawn(blend=Cut(), label=lambda lam, a, b: lam, y=PERM), ValueError, "label"),
    ],
)
def test_ways_that_are_none(make, kind, message):
    with pytest.raises(kind, match=message):
        make()


# Plans


OF_TENSORS = ["rows", "no side", "float64", "above 1", "nan", "gradient", "name", "boxes"]


@pytest.mark.parametrize(
    ("weight", "kind", "message"),
    [
        (torch.rand(2, 4), ValueError, "must have shape"),
        (torch.rand(3), ValueError, "must have shape"),
        (torch.rand(1, 4).double(), TypeError, "torch.float32"),
        (torch.full((1, 4), 1.5), ValueError, "between 0 and 1"),
        (torch.full((1, 4), torch.nan), ValueError, "between 0 and 1"),
        (torch.rand(1, 4, requires_grad=True), ValueError, "gradient"),
        ("box", TypeError, "must be a tensor, Box"),
        (Box(torch.rand(2, 2), torch.rand(2)), ValueError, "2 boxes, but 3 rows"),
    ],
    ids=OF_TENSORS,
)
def test_weights_that_are_none(weight, kind, message):
    with pytest.raises(kind, match=message):
        MixPlan("a", 0.5, PERM, weight=weight)


@pytest.mark.parametrize(
    "options",
    [{"blend": Cut()}, {"blend": PatchUp()}, {"blend": SimilarityKernel()}, {"noise": Noise()}],
)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_plans_are_copied_with_all_that_they_say(options, again):
    plan = drawn(**options)
    twin = again(plan)
    assert repr(twin) == repr(plan)
    if isinstance(plan.weight, Box):
        assert torch.equal(twin.weight.own((5, 5)), plan.weight.own((5, 5)))


def test_plans_from_before_there_were_weights():
    plan = drawn()
    for name in ("weight", "noise"):
        vars(plan).pop(name)
    assert plan.weight is None
    assert plan.noise is None
    assert plan.target_lam is plan.lam


def test_plans_say_what_they_do():
    own = torch.tensor([[True, False]])
    plan = MixPlan("a", 0.25, PERM, weight=own)
    assert repr(plan) == "MixPlan(layer='a', lam=0.25, weight=(1, 2), batch=3)"
    assert plan.target_lam == 0.5
    assert "Box((0.5, 0.5, 0.5), share=0.25)" in repr(
        MixPlan("a", 0.75, PERM, weight=Box((0.5,), 0.25))
    )
