"""The code of the two processes in test_distributed.py: a model, a batch per rank, and scenarios.

A scenario is a function of the rank. `on_ranks` runs it in new processes and returns the results of
all ranks. This is a separate module because the new processes import it by name.
"""

import threading
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

import processes
from carrying import Conditional, UNet
from manifold_mixup import Cut, DrawnNoise, ManifoldMixup, MixPlan, Noise
from shared import Looped
from with_positions import Maps

WORLD = 2
BATCH, FEATURES, CLASSES = 6, 5, 3
LAYERS = ("input", "stem", "body")
IN_MAPS = ("input", "conv1", "conv2")
PLANNED = 6  # number of plans to compare
# Models in which several tensors cross, or modules run several times.
CROSSED: dict[str, Any] = {"UNet": UNet, "Conditional": Conditional, "Looped": Looped}
PATIENCE = 150.0  # seconds for scenarios, including the start of the processes


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    parts = {
        "stem": nn.Linear(FEATURES, 8),
        "act": nn.Tanh(),
        "body": nn.Linear(8, 8),
        "norm": nn.BatchNorm1d(8),
        "head": nn.Linear(8, CLASSES),
    }
    model = nn.Sequential()
    for name, part in parts.items():
        model.add_module(name, part)
    return model.double()


def batch_of(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + rank)
    x = torch.randn(BATCH, FEATURES, dtype=torch.float64, generator=generator)
    return x, torch.randint(CLASSES, (BATCH,), generator=generator)


def make_maps() -> Maps:
    """Return convolutions, whose states have positions."""
    torch.manual_seed(0)
    return Maps().double()


def maps_of(rank: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of images, with every class twice in an order of the rank."""
    generator = torch.Generator().manual_seed(300 + 2 * step + rank)
    x = torch.randn(BATCH, 2, 8, 8, dtype=torch.float64, generator=generator)
    return x, torch.randperm(BATCH, generator=generator) % CLASSES


def plan_of(rank: int, layer: str) -> MixPlan:
    """Return a fixed plan that differs between ranks in all its parts."""
    perm = torch.randperm(BATCH, generator=torch.Generator().manual_seed(200 + rank))
    return MixPlan(layer, torch.tensor(0.25 + 0.375 * rank), perm)


def as_data(plan: MixPlan) -> tuple[str, torch.Tensor, torch.Tensor]:
    return plan.layer, plan.lam, plan.perm


def whole_as_data(plan: MixPlan) -> dict[str, Any]:
    """Return a plan that cuts and adds noise, after its pass, as values that are loaded safely."""
    fields = {name: getattr(plan, name) for name in ("layer", "lam", "perm", "weight", "label")}
    noise = plan.noise
    return fields | {"noise": {"add": noise.add, "multiply": noise.multiply, "key": noise.key}}


def as_whole_plan(data: dict[str, Any]) -> MixPlan:
    """Return the plan of `whole_as_data`."""
    return MixPlan(**{**data, "noise": DrawnNoise(**data["noise"])})


# Scenarios


def in_turn(rank: int, scenarios: list[tuple[Any, ...]]) -> list[Any]:
    """Run scenarios, each given with its arguments, and return the results."""
    return [scenario(rank, *arguments) for scenario, *arguments in scenarios]


def ddp_plans(rank: int, attach_to: str) -> list[Any]:
    """Train with drawn plans; return them."""
    ddp, mixup = _ddp(attach_to)
    return _train(ddp, mixup, rank, steps=PLANNED)


def ddp_gradients(rank: int, attach_to: str, options: dict[str, bool]) -> list[Any]:
    """Run one step for each layer with a fixed plan; return the gradients."""
    ddp, mixup = _ddp(attach_to, **options)
    return [_fixed_step(ddp, mixup, rank, layer) for layer in LAYERS]


def ddp_drawn_gradients(rank: int, attach_to: str) -> list[Any]:
    """Run steps with drawn plans; return each plan with its gradients."""
    ddp, mixup = _ddp(attach_to)
    steps = []
    for _ in range(PLANNED):
        plans = _train(ddp, mixup, rank, steps=1)
        steps.append((plans[0], _gradients(ddp)))
    return steps


def ddp_drawn_cuts(rank: int, steps: int) -> list[Any]:
    """Cut, add noise and pair by the targets; return each plan with its gradients."""
    ddp = DistributedDataParallel(make_maps())
    options: dict[str, Any] = {"blend": Cut(), "noise": Noise(0.4, 0.2), "pairs": "other_class"}
    mixup = ManifoldMixup(ddp, IN_MAPS, example=maps_of(rank, 0)[0], seed=0, **options)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    seen = []
    for step in range(steps):
        x, y = maps_of(rank, step)
        ddp.zero_grad()
        mixup.batch(y)
        criterion(ddp(x), y).backward()
        seen.append((whole_as_data(mixup.plan), _gradients(ddp)))
    return seen


def ddp_accumulation(rank: int) -> dict[str, torch.Tensor]:
    """Accumulate the gradients of two layers, the first without communication."""
    ddp, mixup = _ddp("ddp")
    with ddp.no_sync():
        _backward(ddp, mixup, rank, LAYERS[0])
    _backward(ddp, mixup, rank, LAYERS[2])
    return _gradients(ddp)


def ddp_gradients_of_models(rank: int) -> list[Any]:
    """Run a step of each model at each layer; return the gradients."""
    return [_step_of_model(kind, rank, layer) for kind in CROSSED.values() for layer in kind.layers]


def weighted(output: torch.Tensor) -> torch.Tensor:
    """Return a loss of a model in `CROSSED`."""
    return (output * torch.linspace(1, 2, output.numel()).sin().view_as(output)).sum()


def inputs_of(kind: Any, rank: int) -> tuple[torch.Tensor, ...]:
    """Return the batch of a rank for a model in `CROSSED`."""
    torch.manual_seed(1)
    given = kind.example()
    return tuple(x * (1 + rank) if x.is_floating_point() else x.roll(rank, 0) for x in given)


def _step_of_model(kind: Any, rank: int, layer: str) -> Any:
    torch.manual_seed(0)
    ddp = DistributedDataParallel(kind())
    mixup = ManifoldMixup(ddp, [layer], example=inputs_of(kind, rank))
    with mixup.using(plan_of(rank, layer)):
        output = ddp(*inputs_of(kind, rank))
    mixup.target(None, output)
    weighted(output).backward()
    return _gradients(ddp)


def fsdp_gradients(rank: int, attach: str) -> tuple[list[Any], list[str]]:
    """Run a step for each layer with a fixed plan; return the gradients and the warnings."""
    model = make_model()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        if attach == "before":
            mixup = ManifoldMixup(model, LAYERS, example=batch_of(rank)[0], seed=0)
            _shard(model)
        else:
            _shard(model)
            mixup = ManifoldMixup(model, LAYERS, seed=0)
        _train(model, mixup, rank, steps=2)  # the first step would run the check
    return [_fixed_step(model, mixup, rank, layer) for layer in LAYERS], _of_the_check(warned)


def tensor_parallel_gradients(rank: int) -> tuple[list[Any], str]:
    """Run a step for each layer by the plan and the batch of rank 0, with two layers split.

    Returns:
        The gradients, and the error if it is split after attaching, so that its state is a DTensor.
    """
    model = make_model()
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    parallelize_module(model, mesh, {"stem": ColwiseParallel(), "body": RowwiseParallel()})
    mixup = ManifoldMixup(model, LAYERS, check=False, seed=0)
    gradients = [_fixed_step(model, mixup, 0, layer) for layer in LAYERS]

    other = make_model()
    mixup = ManifoldMixup(other, ["stem"], example=batch_of(0)[0], seed=0)
    parallelize_module(other, mesh, {"stem": ColwiseParallel()})
    try:
        _fixed_step(other, mixup, 0, "stem")
    except TypeError as error:
        return gradients, str(error)
    return gradients, ""


def tensor_parallel_plans(rank: int) -> list[Any]:
    """Train a split model on one batch with drawn plans; return them."""
    model = make_model()
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    parallelize_module(model, mesh, {"stem": ColwiseParallel(), "body": RowwiseParallel()})
    mixup = ManifoldMixup(model, LAYERS, check=False, seed=0)
    return _train(model, mixup, 0, steps=PLANNED)


def fsdp_plans(rank: int) -> list[Any]:
    """Train a sharded model with drawn plans; return them."""
    model = make_model()
    mixup = ManifoldMixup(model, LAYERS, example=batch_of(rank)[0], seed=0)
    _shard(model)
    return _train(model, mixup, rank, steps=PLANNED)


def resume(rank: int, saved_by: str) -> tuple[list[Any], list[Any]]:
    """Save, resume in a new attachment, and return the later plans of both runs."""
    ddp, mixup = _ddp("ddp")
    _train(ddp, mixup, rank, steps=3)
    states: list[Any] = [None] * WORLD
    dist.all_gather_object(states, mixup.state_dict())
    uninterrupted = _train(ddp, mixup, rank, steps=PLANNED)
    resumed_ddp, resumed = _ddp("ddp")
    resumed.load_state_dict(states[rank] if saved_by == "own" else states[0])
    return uninterrupted, _train(resumed_ddp, resumed, rank, steps=PLANNED)


def fail(rank: int) -> None:
    """Raise on one rank while the other waits for it."""
    if rank == 1:
        raise ValueError("rank 1 gave up")
    dist.barrier()


def hang(rank: int) -> None:
    """Never end."""
    threading.Event().wait()


def _ddp(attach_to: str, **options: bool) -> tuple[DistributedDataParallel, ManifoldMixup]:
    model = make_model()
    if attach_to == "inner":
        mixup = ManifoldMixup(model, LAYERS, seed=0)
        return DistributedDataParallel(model, **options), mixup
    ddp = DistributedDataParallel(model, **options)
    return ddp, ManifoldMixup(ddp, LAYERS, seed=0)


def _shard(model: nn.Sequential) -> None:
    # The eligible layers are sharded separately, so FSDP's hooks are on the same modules as ours.
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    for module in (model.stem, model.body, model):
        fully_shard(module, mesh=mesh)


def _train(model: nn.Module, mixup: ManifoldMixup, rank: int, *, steps: int) -> list[Any]:
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    x, y = batch_of(rank)
    plans = []
    for _ in range(steps):
        model.zero_grad()
        criterion(model(x), y).backward()
        plans.append(as_data(mixup.plan))
    return plans


def _fixed_step(model: nn.Module, mixup: ManifoldMixup, rank: int, layer: str) -> Any:
    model.zero_grad()
    _backward(model, mixup, rank, layer)
    return _gradients(model)


def _backward(model: nn.Module, mixup: ManifoldMixup, rank: int, layer: str) -> None:
    x, y = batch_of(rank)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    with mixup.using(plan_of(rank, layer)):
        loss = criterion(model(x), y)
    loss.backward()


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("module."): _whole(parameter.grad)
        for name, parameter in model.named_parameters()
    }


def _whole(gradient: Any) -> torch.Tensor:
    full = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return full.clone()


def _of_the_check(warned: list[warnings.WarningMessage]) -> list[str]:
    texts = [f"{warning.category.__name__}: {warning.message}" for warning in warned]
    return [text for text in texts if "layers" in text]


# Processes


def on_ranks(scenario: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """Run ``scenario(rank, *arguments)`` on every rank and return the ranks' results.

    All processes are ended, whatever happens.
    """
    context = processes.context()
    workers = [
        context.Process(target=_work, args=(scenario, rank, folder, arguments), daemon=True)
        for rank in range(WORLD)
    ]
    for worker in workers:
        worker.start()
    try:
        _wait(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()
    return [_result(folder, rank, worker) for rank, worker in enumerate(workers)]


def _wait(workers: list[Any]) -> None:
    """Wait until all are done or one has failed, in which case the others would wait forever."""
    deadline = time.monotonic() + PATIENCE
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        if any(worker.exitcode for worker in workers):
            return
        time.sleep(0.01)


def _work(scenario: Callable[..., Any], rank: int, folder: Path, arguments: tuple[Any]) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'store'}",
            rank=rank,
            world_size=WORLD,
            timeout=timedelta(seconds=PATIENCE),
        )
        torch.save(scenario(rank, *arguments), folder / f"result.{rank}")
        dist.barrier()  # no rank exits while another still communicates with it
        dist.destroy_process_group()
    except Exception:
        (folder / f"error.{rank}").write_text(traceback.format_exc())
        raise SystemExit(1) from None


def _result(folder: Path, rank: int, worker: Any) -> Any:
    errors = [f"{path.name}:\n{path.read_text()}" for path in sorted(folder.glob("error.*"))]
    if errors:
        raise RuntimeError("\n".join(errors))
    if worker.exitcode != 0:
        raise RuntimeError(f"rank {rank} did not end by itself (exit code {worker.exitcode})")
    return torch.load(folder / f"result.{rank}", weights_only=True)
