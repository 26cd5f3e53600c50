"""Sampling: the paper's distributions, and plans that depend only on (seed, rank, step)."""

import itertools
import math
import random
from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses import FakeTensorMode

from manifold_mixup import Cut, Interpolate, OneOf, sample_plan
from manifold_mixup._draw import stream
from manifold_mixup._draw.beta import beta_from_uniforms, symmetric_beta
from manifold_mixup._draw.first_stream import step_generator
from manifold_mixup._draw.stream import Stream

CPU = torch.device("cpu")
LAYERS = ["input", "layer1", "layer2"]
ALPHAS = [1e-3, 1e-2, 0.1, 0.5, 1, 2, 10, 100]
KOLMOGOROV = 1.63  # sqrt(n) times the distance exceeds this with probability 0.01


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def content(plan):
    return plan and (plan.layer, plan.lam.tolist(), plan.perm.tolist())


def draws(alpha=1.0, *, steps=20, batch=8, rank=0, monkeypatch=None, **options):
    if monkeypatch:
        monkeypatch.setattr(stream, "_rank", lambda: rank)
    plans = Stream(alpha, **{"p": 1.0, "per_sample": False, "seed": 0} | options)
    return [content(plans.draw(LAYERS, batch, CPU)) for _ in range(steps)]


# λ ~ Beta(alpha, alpha)


def distance(values, alpha, *, tiny):
    """Return the Kolmogorov-Smirnov statistic times sqrt(n), at thresholds that floats can resolve.

    For small alpha, most values are so close to 0 or 1 that they are rounded to 0 or 1. These ties
    are harmless if no threshold is below ``tiny``, or closer to 1 than the spacing of floats there.
    """
    values = np.sort(np.asarray(values, dtype=np.float64))
    low = np.concatenate([np.geomspace(tiny, 0.01, 300), np.linspace(0.01, 0.5, 300)])
    high = low[low > 1e-6]
    law = stats.beta(alpha, alpha)
    below = np.searchsorted(values, low, side="right") / len(values) - law.cdf(low)
    # By symmetry, P(λ ≥ 1 - q) is P(λ ≤ q), but 1 - q loses digits of q.
    above = 1 - np.searchsorted(values, 1 - high, side="left") / len(values) - law.cdf(high)
    return max(np.abs(below).max(), np.abs(above).max()) * math.sqrt(len(values))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_beta_from_tiny_to_large_alpha(alpha):
    assert distance(symmetric_beta(alpha, 100_000, generator()), alpha, tiny=1e-300) < KOLMOGOROV


@pytest.mark.parametrize("alpha", [0.5, 1, 2, 10, 100])  # for smaller alpha, many values round to 1
def test_beta_by_the_test_of_scipy(alpha):
    values = symmetric_beta(alpha, 50_000, generator(1)).numpy()
    assert stats.kstest(values, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("alpha", ALPHAS)
def test_lam_of_a_plan_per_sample(alpha):
    plan = sample_plan(50_000, layers=LAYERS, alpha=alpha, per_sample=True, generator=generator(2))
    assert (plan.lam.shape, plan.lam.dtype) == ((50_000,), torch.float32)
    assert distance(plan.lam, alpha, tiny=1e-37) < KOLMOGOROV


def test_the_distance_finds_what_is_wrong():
    """It detects PyTorch's float32 Beta at alpha = 1e-3, a folded λ, and a slightly other alpha."""
    torch.manual_seed(0)
    wrong = torch.distributions.Beta(torch.tensor(1e-3), torch.tensor(1e-3)).sample((100_000,))
    assert distance(wrong, 1e-3, tiny=1e-37) > 20 * KOLMOGOROV
    right = symmetric_beta(1.0, 100_000, generator())
    assert distance(torch.maximum(right, 1 - right), 1.0, tiny=1e-37) > 20 * KOLMOGOROV
    assert distance(right, 1.05, tiny=1e-37) > KOLMOGOROV


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 1.0, 1e8, 1e300])
def test_extreme_alphas_give_numbers(alpha):
    values = symmetric_beta(alpha, 1000, generator())
    assert ((values >= 0) & (values <= 1)).all()
    assert abs(values.mean() - 0.5) < 0.06


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, *ALPHAS, 1e8, 1e300])
def test_one_number_is_that_of_many(alpha):
    """In float32, of which a plan's λ is."""
    for seed in range(100):
        u, v = torch.rand(2, dtype=torch.float64, generator=generator(seed)).tolist()
        (expected,) = symmetric_beta(alpha, 1, generator(seed))
        assert torch.equal(torch.tensor(beta_from_uniforms(alpha, u, v)), expected.float())


# Joint distribution of layer, λ and pairs


@pytest.fixture(scope="module")
def many():
    """The draws of 6000 steps of a stream: layer, λ, and which of the 24 orders of four rows."""
    orders = {order: place for place, order in enumerate(itertools.permutations(range(4)))}
    plans = draws(2.0, steps=6000, batch=4)
    layer, lam, perm = zip(*plans, strict=True)
    return (
        np.array([LAYERS.index(name) for name in layer]),
        np.array(lam),
        np.array([orders[tuple(order)] for order in perm]),
    )


def test_layers_are_uniform(many):
    assert stats.chisquare(np.bincount(many[0], minlength=3)).pvalue > 0.01


def test_permutations_are_uniform(many):
    assert stats.chisquare(np.bincount(many[2], minlength=24)).pvalue > 0.01


def test_lam_of_the_steps_is_beta(many):
    assert stats.kstest(many[1], stats.beta(2, 2).cdf).pvalue > 0.01


@pytest.mark.parametrize("lag", [0, 1, 2, 7])
def test_layer_lam_and_permutation_are_independent_also_of_earlier_steps(many, lag):
    layer, lam, perm = many
    third = np.digitize(lam, np.quantile(lam, [1 / 3, 2 / 3]))
    parts = {"layer": layer, "lam": third, "perm": perm}
    for one, other in itertools.product(parts, parts):
        if lag == 0 and one >= other:
            continue  # a variable depends on itself
        later, earlier = parts[one][lag:], parts[other][: len(layer) - lag]
        table = np.histogram2d(later, earlier, bins=(later.max() + 1, earlier.max() + 1))[0]
        # thirty tables: at 0.001 each, 1 run in 30 would fail by chance
        assert stats.chi2_contingency(table).pvalue > 1e-3, (one, other)


@pytest.fixture(scope="module")
def many_each():
    """λ of each of 8 examples ``(3000, 8)``, and their partners, of 3000 steps."""
    plans = draws(2.0, steps=3000, per_sample=True)
    return np.array([lam for _, lam, _ in plans]), np.array([perm for _, _, perm in plans])


def test_lam_of_each_example_is_beta(many_each):
    law = stats.beta(2, 2).cdf
    assert stats.kstest(many_each[0].ravel(), law).pvalue > 0.01
    for row in many_each[0].T:
        assert stats.kstest(row, law).pvalue > 1e-3


def test_lam_of_each_example_is_independent_of_the_others_and_of_the_partners(many_each):
    lam, perm = many_each
    bound = 4 / math.sqrt(len(lam))  # four standard deviations of a correlation
    later, earlier = lam[1:], lam[:-1]
    for one, other in ((lam, lam), (lam, perm), (later, earlier), (later, perm[:-1])):
        correlations = np.corrcoef(one.T, other.T)[:8, 8:]
        np.fill_diagonal(correlations, 0 if one is other else correlations.diagonal().copy())
        assert np.abs(correlations).max() < bound


def test_one_lam_for_the_batch_or_one_for_each():
    scalar = sample_plan(5, layers=LAYERS, alpha=1.0, generator=generator())
    each = sample_plan(5, layers=LAYERS, alpha=1.0, per_sample=True, generator=generator())
    assert (scalar.lam.shape, scalar.lam.dtype) == ((), torch.float32)
    assert (each.lam.shape, each.lam.dtype) == ((5,), torch.float32)
    assert each.lam.unique().numel() == 5
    assert scalar.layer in LAYERS


@pytest.mark.parametrize("version", [1, 2])
def test_an_empty_batch_is_refused_and_draws_nothing(version):
    plans = Stream(1.0, p=1.0, per_sample=False, seed=0)
    plans.version = version
    with pytest.raises(ValueError, match="batch must be at least 1, but is 0"):
        plans.draw(LAYERS, 0, CPU)
    assert plans.step == 0


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32, int, Fraction])
def test_alpha_may_be_any_kind_of_number(kind):
    for per_sample in (False, True):
        expected = draws(2.0, per_sample=per_sample)
        assert draws(kind(2), per_sample=per_sample) == expected


def test_a_batch_of_one_pairs_the_example_with_itself():
    assert sample_plan(1, layers=["fc"], alpha=1.0).perm.tolist() == [0]


# Sources of randomness


def test_the_same_generator_state_gives_the_same_plan():
    first, second, other = (
        content(sample_plan(16, layers=LAYERS, alpha=1.0, generator=generator(seed)))
        for seed in (3, 3, 4)
    )
    assert first == second != other


def test_a_generator_moves_on():
    shared = generator()
    plans = [content(sample_plan(16, layers=LAYERS, alpha=1.0, generator=shared)) for _ in "abc"]
    assert plans[0] != plans[1] != plans[2] != plans[0]


def test_without_a_generator_every_plan_is_another():
    torch.manual_seed(0)
    first = content(sample_plan(16, layers=LAYERS, alpha=1.0))
    torch.manual_seed(0)
    assert content(sample_plan(16, layers=LAYERS, alpha=1.0)) != first


def test_global_generators_are_neither_read_nor_advanced():
    def states():
        numpy_state = np.random.get_state()  # noqa: NPY002 - the global one is what is looked at
        return torch.get_rng_state().tolist(), numpy_state[1].tolist(), random.getstate()

    before = states()
    sample_plan(8, layers=LAYERS, alpha=1.0)
    first = draws(per_sample=True)
    assert states() == before
    torch.manual_seed(99)
    random.seed(99)
    assert draws(per_sample=True) == first


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_defaults_of_the_framework_change_nothing(device):
    expected = draws(steps=3)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device(device):
            plan = sample_plan(8, layers=LAYERS, alpha=1.0)
            assert (plan.perm.device.type, plan.lam.dtype) == ("cpu", torch.float32)
            assert draws(steps=3) == expected
    finally:
        torch.set_default_dtype(dtype)


def test_the_plan_is_made_where_it_is_used():
    plan = sample_plan(8, layers=LAYERS, alpha=1.0, device="meta")
    assert plan.lam.device.type == plan.perm.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("per_sample", [False, True])
def test_drawing_for_a_gpu_waits_for_nothing(per_sample):
    cuda = torch.device("cuda", 0)
    plans = Stream(1.0, p=0.9, per_sample=per_sample, seed=0)
    plans.draw(LAYERS, 8, cuda)  # the first draw initialises the device
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = [plans.draw(LAYERS, 8, cuda) for _ in range(5)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_cpu = draws(p=0.9, per_sample=per_sample, steps=6)[1:]
    assert [plan and content(plan) for plan in drawn] == on_cpu


# Streams


@pytest.mark.parametrize("per_sample", [False, True])
def test_streams_are_never_shared(per_sample, monkeypatch):
    """Seed 0 on rank 1 is not seed 1 on rank 0, and digits of seed and rank cannot be confused."""
    numbers = [0, 1, 2, 10, 11, 111]
    seen = set()
    for seed, rank in itertools.product([*numbers, -1, 2**63, 2**64 - 1], numbers):
        options = {"seed": seed, "rank": rank, "per_sample": per_sample}
        for _, lam, _ in draws(steps=3, **options, monkeypatch=monkeypatch):
            seen.update(lam if per_sample else [lam])
    # 54 streams of 3 steps. Two of some thousand float32 may be equal by chance.
    assert len(seen) >= 54 * 3 * (8 if per_sample else 1) - per_sample


def test_generators_meet_no_more_often_than_32_bits_must():
    """PyTorch keeps 32 bits of a seed, so single steps may coincide, but not streams."""
    states = {
        torch.randint(2**62, (2,), generator=step_generator(seed, rank, step)).numpy().tobytes()
        for seed, rank, step in itertools.product(range(5), range(8), range(500))
    }
    assert len(states) >= 5 * 8 * 500 - 1


FIRST_STREAM = {  # seed 3, p 0.8, α 2, batches of 4; drawn by the version before the second stream
    "interpolate": [
        ("input", 0.47621721029281616, [3, 0, 2, 1]),
        None,
        None,
        ("input", 0.22171582281589508, [3, 0, 1, 2]),
        ("layer2", 0.3807794749736786, [1, 0, 2, 3]),
        None,
    ],
    "per sample": [
        (
            "input",
            [0.543907105922699, 0.7979602217674255, 0.309447318315506, 0.46010923385620117],
            [1, 3, 0, 2],
        ),
        None,
        None,
        (
            "input",
            [0.6518857479095459, 0.6928756237030029, 0.4169696569442749, 0.12943677604198456],
            [2, 3, 1, 0],
        ),
        (
            "layer2",
            [0.8274803757667542, 0.40112075209617615, 0.9350336790084839, 0.4611121416091919],
            [2, 0, 1, 3],
        ),
        None,
    ],
    "cut": [
        ("input", 0.46598756313323975, [3, 0, 2, 1]),
        None,
        None,
        ("input", 0.1381271779537201, [3, 0, 1, 2]),
        ("layer2", 0.27220016717910767, [1, 0, 2, 3]),
        None,
    ],
    "one of": [
        ("input", 0.25888317823410034, [2, 1, 0, 3]),
        None,
        None,
        ("input", 0.6909266114234924, [1, 0, 2, 3]),
        ("layer2", 0.6818643808364868, [2, 3, 1, 0]),
        None,
    ],
}
OPTIONS = {
    "interpolate": {},
    "per sample": {"per_sample": True},
    "cut": {"blend": Cut()},
    "one of": {"blend": OneOf((Interpolate(), 1), (Cut(), 1))},
}


@pytest.mark.parametrize("kind", FIRST_STREAM)
def test_the_first_stream_goes_on_as_it_was(kind):
    plans = Stream(2.0, **{"p": 0.8, "per_sample": False, "seed": 3} | OPTIONS[kind])
    plans.version = 1
    drawn = [content(plans.draw(LAYERS, 4, CPU)) for _ in range(6)]
    for plan, known in zip(drawn, FIRST_STREAM[kind], strict=True):
        assert (plan is None) == (known is None)
        if plan is not None:  # the last bit of λ is that of a processor's functions
            assert (plan[0], plan[2]) == (known[0], known[2])
            assert plan[1] == pytest.approx(known[1], rel=1e-6)


def test_every_rank_has_a_stream_of_its_own(monkeypatch):
    ranks = [draws(rank=rank, monkeypatch=monkeypatch) for rank in range(4)]
    lam = np.array([[plan[1] for plan in plans] for plans in ranks])
    off_diagonal = np.corrcoef(lam)[~np.eye(4, dtype=bool)]
    assert np.abs(off_diagonal).max() < 0.7
    assert ranks[0] == draws(rank=0, monkeypatch=monkeypatch)


@pytest.mark.parametrize("per_sample", [False, True])
def test_neither_batch_size_nor_earlier_batches_matter_to_later_steps(per_sample):
    whole = draws(steps=10, per_sample=per_sample)
    plans = Stream(1.0, p=1.0, per_sample=per_sample, seed=0)
    for step in range(10):
        plan = content(plans.draw(LAYERS, 8 if step == 9 else 1 + step, CPU))
    assert plan == whole[9]


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("batch", [8, 500, 1500])
def test_a_stream_goes_on_from_its_step(per_sample, batch):
    whole = draws(steps=10, p=0.7, per_sample=per_sample, batch=batch)
    resumed = Stream(1.0, p=0.7, per_sample=per_sample, seed=0)
    for step in (4, 4, 7, 0):  # a run may go back
        resumed.step = step
        rest = [content(resumed.draw(LAYERS, batch, CPU)) for _ in whole[step:]]
        assert rest == whole[step:]


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_changed_plan_changes_no_other(per_sample):
    whole = draws(steps=8, per_sample=per_sample)
    plans = Stream(1.0, p=1.0, per_sample=per_sample, seed=0)
    for _ in range(2):
        plans.step = 0
        for known in whole:
            plan = plans.draw(LAYERS, 8, CPU)
            assert content(plan) == known
            plan.lam.zero_()
            plan.perm.zero_()


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("around", [torch.inference_mode, FakeTensorMode])
def test_a_step_on_tensors_of_another_kind_shares_none_with_its_neighbours(around, per_sample):
    whole = draws(steps=9, per_sample=per_sample)
    plans = Stream(1.0, p=1.0, per_sample=per_sample, seed=0)
    for step in range(9):
        with around() if step % 3 == 0 else nullcontext():
            plan = plans.draw(LAYERS, 8, CPU)
            kind = type(torch.ones(())), torch.ones(()).is_inference()
            for part in (plan.lam, plan.perm):
                assert (type(part), part.is_inference()) == kind
        if around is not FakeTensorMode or step % 3:
            assert content(plan) == whole[step]


def test_steps_are_drawn_together_as_long_as_a_run_goes_on(monkeypatch):
    drawn = []

    def noted(seed, rank, step):
        drawn.append(step)
        return of_step(seed, rank, step)

    of_step = stream._numbers_of_step
    monkeypatch.setattr(stream, "_numbers_of_step", noted)
    plans = Stream(1.0, p=1.0, per_sample=False, seed=0)

    def ahead(batch, steps=1):
        before = len(drawn)
        for _ in range(steps):
            plans.draw(LAYERS, batch, CPU)
        return len(drawn) - before

    assert [ahead(8) for _ in range(16)] == [1, 2, 0, 4, 0, 0, 0, 8] + [0] * 7 + [16]
    assert [ahead(4096) for _ in range(7)] == [1, 2, 0, 4, 0, 0, 0]
    assert ahead(4096) == 4  # 2 ** 14 partners
    assert [ahead(2**15) for _ in range(3)] == [1, 1, 1]
    assert [ahead(2 + step % 2) for step in range(4)] == [1] * 4


def test_many_ways_and_batch_sizes_keep_few_draws():
    plans = Stream(lambda step: 1 + step / 100, p=1.0, per_sample=True, seed=0)
    for step in range(60):
        plans.draw(LAYERS, 8 + step % 3, CPU)
    assert len(plans._prefetched._drawn) <= 8


def test_p_is_the_share_of_mixed_batches():
    always = draws(p=1.0, steps=1000)
    sometimes = draws(p=0.3, steps=1000)
    mixed = sum(plan is not None for plan in sometimes)
    assert stats.binomtest(mixed, 1000, 0.3).pvalue > 0.01
    assert None not in always
    assert draws(p=0.0) == [None] * 20
    # the drawn plans are those of p = 1
    assert all(plan in (None, other) for plan, other in zip(sometimes, always, strict=True))


def test_alpha_may_follow_the_steps():
    asked = []

    def schedule(step):
        asked.append(step)
        return None if step % 2 else 1.0

    plans = draws(schedule, steps=6)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert [plan is None for plan in plans] == [False, True] * 3
    assert plans[::2] == draws(1.0, steps=6)[::2]


# Errors

BAD_ALPHAS = [
    (0, ValueError, "above 0 and finite, but is 0.*paused"),
    (0.0, ValueError, "above 0 and finite, but is 0.0"),
    (-1, ValueError, "but is -1"),
    (math.nan, ValueError, "but is nan"),
    (math.inf, ValueError, "but is inf"),
    ("a", TypeError, "alpha must be a number above 0.*but is a str"),
    (True, TypeError, "but is a bool"),
    (torch.tensor(1.0), TypeError, "but is a Tensor"),
]


@pytest.mark.parametrize(("alpha", "error", "says"), BAD_ALPHAS)
def test_alpha_out_of_range(alpha, error, says):
    with pytest.raises(error, match=says):
        sample_plan(4, layers=LAYERS, alpha=alpha)
    with pytest.raises(error, match=says):
        Stream(alpha, p=1.0, per_sample=False, seed=0)
    scheduled = Stream(lambda step: alpha, p=0.0, per_sample=False, seed=0)
    with pytest.raises(error, match=says):
        scheduled.draw(LAYERS, 4, CPU)
    assert scheduled.step == 0  # nothing was drawn


def test_alpha_none_is_for_schedules_only():
    with pytest.raises(TypeError, match=r"alpha.*NoneType"):
        Stream(None, p=1.0, per_sample=False, seed=0)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan, "1", None, True])
def test_p_out_of_range(p):
    with pytest.raises(ValueError, match="p must be a fraction of the batches, 0 to 1, but is"):
        Stream(1.0, p=p, per_sample=False, seed=0)


@pytest.mark.parametrize("seed", [1.5, "1", None, True])
def test_a_seed_is_an_integer(seed):
    with pytest.raises(TypeError, match=f"seed must be an integer, but is a {type(seed).__name__}"):
        Stream(1.0, p=1.0, per_sample=False, seed=seed)


def test_integers_of_numpy_are_integers():
    assert draws(seed=np.int64(3)) == draws(seed=3) != draws(seed=4)
    assert type(Stream(1.0, p=1.0, per_sample=False, seed=np.int64(3)).seed) is int


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numbers_of_numpy_are_numbers(kind):
    assert draws(kind(2), p=kind(1)) == draws(2.0)
    assert draws(lambda step: kind(2)) == draws(2.0)
    assert draws(p=np.float32(0.25)) == draws(p=0.25)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_examples(batch):
    with pytest.raises(ValueError, match=f"batch must be at least 1, but is {batch}"):
        sample_plan(batch, layers=LAYERS, alpha=1.0)


def test_layers_are_a_list_of_names():
    with pytest.raises(ValueError, match="at least one eligible layer"):
        sample_plan(4, layers=[], alpha=1.0)
    with pytest.raises(TypeError, match="the single name 'layer1'"):
        sample_plan(4, layers="layer1", alpha=1.0)
