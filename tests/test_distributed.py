"""Two processes: each rank draws its own plans, and gradients are those of one process."""

import multiprocessing
from collections import Counter

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

import distributed_worker as worker
from distributed_worker import BATCH, LAYERS, PLANNED, WORLD, on_ranks
from manifold_mixup import Cut, ManifoldMixup, MixPlan
from manifold_mixup._draw.ranks import rank_of_batch

needs_gloo = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="needs torch with gloo"
)
ATTACHMENTS = ["inner", "ddp"]
attachments = pytest.mark.parametrize("attach_to", ATTACHMENTS)
OPTIONS = {
    "plain": {},
    "find_unused_parameters": {"find_unused_parameters": True},
    "static_graph": {"static_graph": True},
}
SCENARIOS = [
    *((worker.ddp_plans, each) for each in ATTACHMENTS),
    (worker.fsdp_plans,),
    *((worker.resume, by) for by in ("own", "rank 0")),
    *((worker.ddp_gradients, each, OPTIONS[name]) for name in OPTIONS for each in ATTACHMENTS),
    *((worker.ddp_drawn_gradients, each) for each in ATTACHMENTS),
    (worker.ddp_drawn_cuts, 4),
    (worker.ddp_gradients_of_models,),
    (worker.ddp_accumulation,),
    *((worker.fsdp_gradients, attach) for attach in ("before", "after")),
    (worker.tensor_parallel_gradients,),
    (worker.tensor_parallel_plans,),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """Look up what the ranks return of a scenario: all run in one pair of processes, in turn.

    Starting a pair takes longer than most scenarios do.
    """
    ranks = on_ranks(worker.in_turn, tmp_path_factory.mktemp("ranks"), SCENARIOS)
    return lambda *scenario: [results[SCENARIOS.index(scenario)] for results in ranks]


# The oracle: one process, every rank's batch in turn, no ManifoldMixup


def mixed_loss(model, rank, plan):
    """Return the loss of a rank, mixed by hand."""

    def mixed(state):
        return lam * state + (1 - lam) * state[plan.perm]

    x, y = worker.batch_of(rank)
    lam = plan.lam.double()
    state = mixed(x) if plan.layer == "input" else x
    for name, part in model.named_children():
        state = mixed(part(state)) if name == plan.layer else part(state)
    cross_entropy = nn.functional.cross_entropy
    return lam * cross_entropy(state, y) + (1 - lam) * cross_entropy(state, y[plan.perm])


def oracle(plans):
    """Return the gradients of the mean of the ranks' losses, with rank 0's plan first."""
    model = worker.make_model()
    sum(mixed_loss(model, rank, plan) / WORLD for rank, plan in enumerate(plans)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def fixed_plans(layer):
    return [worker.plan_of(rank, layer) for rank in range(WORLD)]


def assert_same_gradients(seen, expected):
    assert seen.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(seen[name], expected[name], msg=lambda m, n=name: f"{n}: {m}")


def alone(seed):
    """Return the plans of a run in one process."""
    model = worker.make_model()
    mixup = ManifoldMixup(model, LAYERS, seed=seed)
    plans = []
    for _ in range(PLANNED):
        model(worker.batch_of(0)[0])
        plans.append(worker.as_data(mixup.plan))
    return plans


def same(plans, others):
    """Return whether two sequences of plans are equal."""
    return [
        layer == other_layer and torch.equal(lam, other_lam) and torch.equal(perm, other_perm)
        for (layer, lam, perm), (other_layer, other_lam, other_perm) in zip(
            plans, others, strict=True
        )
    ]


# Plans


@needs_gloo
@attachments
def test_ddp_ranks_draw_plans_of_their_own_which_only_seed_and_rank_decide(seen, attach_to):
    first, second = seen(worker.ddp_plans, attach_to)
    assert not any(same(first, second))
    assert all(same(first, alone(seed=0))), "rank 0 draws what a run on one process draws"
    assert not any(same(second, alone(seed=1))), "seed 0 on rank 1 is not seed 1 on rank 0"


@needs_gloo
def test_fsdp_ranks_draw_the_plans_of_ddp_ranks(seen):
    sharded = seen(worker.fsdp_plans)
    assert not any(same(*sharded))
    for of_fsdp, of_ddp in zip(sharded, seen(worker.ddp_plans, "ddp"), strict=True):
        assert all(same(of_fsdp, of_ddp))


@needs_gloo
@pytest.mark.parametrize("saved_by", ["own", "rank 0"])
def test_a_resumed_run_goes_on_with_each_rank_s_own_stream(seen, saved_by):
    ranks = seen(worker.resume, saved_by)
    for uninterrupted, resumed in ranks:
        assert all(same(uninterrupted, resumed))
    assert not any(same(ranks[0][1], ranks[1][1]))


# Gradients


@needs_gloo
@attachments
@pytest.mark.parametrize("options", OPTIONS)
def test_ddp_gradients_are_those_of_one_process(seen, attach_to, options):
    for by_layer in seen(worker.ddp_gradients, attach_to, OPTIONS[options]):
        for layer, gradients in zip(LAYERS, by_layer, strict=True):
            assert_same_gradients(gradients, oracle(fixed_plans(layer)))


@needs_gloo
@attachments
def test_ddp_gradients_follow_the_drawn_plans(seen, attach_to):
    for steps in zip(*seen(worker.ddp_drawn_gradients, attach_to), strict=True):
        expected = oracle([MixPlan(*plan) for plan, _ in steps])
        for _, gradients in steps:
            assert_same_gradients(gradients, expected)


def replayed(plans, step):
    """Return the gradients of the mean of the ranks' losses, in one process by the ranks' plans."""
    model = worker.make_maps()
    with ManifoldMixup(model, worker.IN_MAPS, blend=Cut(dims=(2, 3))) as mixup:
        criterion = mixup.wrap(nn.CrossEntropyLoss())
        for rank, plan in enumerate(plans):
            x, y = worker.maps_of(rank, step)
            with mixup.using(plan):
                (criterion(model(x), y) / WORLD).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@needs_gloo
def test_ddp_gradients_follow_plans_that_cut_add_noise_and_pair_by_the_targets(seen):
    ranks = seen(worker.ddp_drawn_cuts, 4)
    layers, shares = set(), []
    for step, of_ranks in enumerate(zip(*ranks, strict=True)):
        plans = [worker.as_whole_plan(data) for data, _ in of_ranks]
        one, other = plans
        assert not torch.equal(one.lam, other.lam)
        assert not torch.equal(one.noise.key, other.noise.key)
        assert not torch.equal(one.perm, other.perm)
        for rank, plan in enumerate(plans):
            layers.add(plan.layer)
            shares.append(plan.target_lam.item())
            _, y = worker.maps_of(rank, step)
            assert (y[plan.perm] != y).all()
            assert torch.equal(plan.target_lam, plan.weight.float().mean())
        expected = replayed(plans, step)
        for _, gradients in of_ranks:
            assert_same_gradients(gradients, expected)
    assert len(layers) > 1
    assert any(0 < share < 1 for share in shares)


@needs_gloo
def test_ddp_mixes_all_that_crosses_a_depth(seen):
    cases = [(kind, layer) for kind in worker.CROSSED.values() for layer in kind.layers]
    for by_case in seen(worker.ddp_gradients_of_models):
        for (kind, layer), gradients in zip(cases, by_case, strict=True):
            torch.manual_seed(0)
            model = kind()
            for rank, plan in enumerate(fixed_plans(layer)):
                output = model.by_hand(plan, *worker.inputs_of(kind, rank))
                (worker.weighted(output) / WORLD).backward()
            expected = {name: p.grad for name, p in model.named_parameters()}
            assert_same_gradients(gradients, expected)


@needs_gloo
def test_ddp_accumulates_differently_mixed_batches(seen):
    first, last = oracle(fixed_plans(LAYERS[0])), oracle(fixed_plans(LAYERS[2]))
    for gradients in seen(worker.ddp_accumulation):
        assert_same_gradients(gradients, {name: first[name] + last[name] for name in first})


@needs_gloo
@pytest.mark.parametrize("attach", ["before", "after"])
def test_fsdp_gradients_are_those_of_one_process_and_a_skipped_check_is_said(seen, attach):
    for by_layer, warned in seen(worker.fsdp_gradients, attach):
        for layer, gradients in zip(LAYERS, by_layer, strict=True):
            assert_same_gradients(gradients, oracle(fixed_plans(layer)))
        if attach == "before":
            assert warned == []
        else:
            assert len(warned) == 1, warned
            assert "UserWarning: the layers ['input', 'stem', 'body'] were not checked" in warned[0]
            assert "parameters are sharded" in warned[0]


# Tensor parallelism


@needs_gloo
def test_split_layers_are_mixed_by_one_plan_where_they_return_their_part(seen):
    for by_layer, error in seen(worker.tensor_parallel_gradients):
        for layer, gradients in zip(LAYERS, by_layer, strict=True):
            model = worker.make_model()
            mixed_loss(model, 0, worker.plan_of(0, layer)).backward()
            expected = {name: one.grad for name, one in model.named_parameters()}
            assert_same_gradients(gradients, expected)
        assert "Attach after parallelize_module, let the layer return the part" in error
        assert "give all ranks the same seed, or one plan: with mixup.using(plan)" in error


@needs_gloo
def test_ranks_that_compute_one_batch_together_draw_the_plans_of_the_first(seen):
    first, second = seen(worker.tensor_parallel_plans)
    assert all(same(first, second))
    assert all(same(first, seen(worker.ddp_plans, "inner")[0]))


SPLITS = {
    "tensors": ((8,), [Shard(0)], False, 0),
    "copies of split tensors": ((4, 2), [Replicate(), Shard(1)], False, 4),
    "copies": ((8,), [Replicate()], False, None),
    "FSDP": ((8,), [Shard(0)], True, None),
    "FSDP with copies": ((2, 4), [Replicate(), Shard(0)], True, None),
    "FSDP of split tensors": ((2, 4), [Shard(0), Shard(1)], True, 4),
    "FSDP of split tensors, with copies": ((2, 2, 2), [Replicate(), Shard(0), Shard(1)], True, 4),
}


@pytest.mark.parametrize(("shape", "placements", "sharded", "rank"), SPLITS.values(), ids=SPLITS)
def test_whose_plans_a_rank_draws(shape, placements, sharded, rank):
    """The process stands for the sixth of eight ranks."""
    dist.init_process_group("fake", store=FakeStore(), rank=5, world_size=8)
    try:
        mesh = dist.device_mesh.init_device_mesh("cpu", shape)
        model = FSDPLinear(8, 8) if sharded else nn.Linear(8, 8)
        model.weight = nn.Parameter(distribute_tensor(torch.zeros(8, 8), mesh, placements))
        assert rank_of_batch(nn.Sequential(nn.Linear(2, 2), model)) == rank
    finally:
        dist.destroy_process_group()
    assert rank_of_batch(nn.Linear(2, 2)) is None


class FSDPLinear(nn.Linear):
    """Named like the classes that `fully_shard` makes."""


# DataParallel


class Collectives(TorchDispatchMode):
    """Counts the collectives that a process dispatches."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "c10d":
            self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ranks", [8, 64, 1024])
def test_a_step_communicates_nothing_more_however_many_ranks_there_are(ranks):
    """The process stands for the last of the ranks; nothing is sent."""
    dist.init_process_group("fake", store=FakeStore(), rank=ranks - 1, world_size=ranks)
    try:
        plain, mixed = (communicated(mixes) for mixes in (False, True))
        assert plain == mixed
        assert sum(plain[0].values()) > 0  # the buffers of the batch norm
        assert plain[1] > 0
    finally:
        dist.destroy_process_group()


def communicated(mixes):
    """Return the collectives of a step, and the number of its buckets of gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    model, buckets = DistributedDataParallel(model), []

    def reduced(_, bucket):
        buckets.append(bucket.index())
        done = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    model.register_comm_hook(None, reduced)
    criterion = nn.CrossEntropyLoss()
    if mixes:
        criterion = ManifoldMixup(model, ["input", "0", "2"], seed=0).wrap(criterion)
    x, y = torch.randn(8, 6), torch.arange(8) % 3
    criterion(model(x), y).backward()  # also checks the layers, and orders the buckets
    buckets.clear()
    with Collectives() as collectives:
        criterion(model(x), y).backward()
    return collectives.count, len(buckets)


def test_a_data_parallel_model_is_refused():
    model = nn.DataParallel(worker.make_model())
    with pytest.raises(TypeError, match="Use DistributedDataParallel"):
        ManifoldMixup(model, LAYERS)


def test_a_replica_that_data_parallel_made_of_an_attached_model_is_refused():
    model = worker.make_model()
    ManifoldMixup(model, LAYERS)
    replica = model._replicate_for_data_parallel()
    with pytest.raises(TypeError, match="Use DistributedDataParallel"):
        replica(torch.zeros(BATCH, worker.FEATURES, dtype=torch.float64))


# Tests of the harness


@needs_gloo
def test_a_rank_that_fails_ends_the_other_and_says_why(tmp_path):
    with pytest.raises(RuntimeError, match="rank 1 gave up"):
        on_ranks(worker.fail, tmp_path)
    assert multiprocessing.active_children() == []


@needs_gloo
def test_ranks_that_hang_are_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "PATIENCE", 0.5)
    with pytest.raises(RuntimeError, match="did not end by itself"):
        on_ranks(worker.hang, tmp_path)
    assert multiprocessing.active_children() == []
