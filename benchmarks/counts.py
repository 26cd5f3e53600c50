"""The cost of a training step in operator calls and bytes, which do not depend on the machine.

The benchmark and ``tests/test_cost.py`` use these counts.
"""

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from manifold_mixup import Cut, Interpolate, ManifoldMixup, PatchUp
from manifold_mixup._blend import Blend

BATCH, CHANNELS, SIDE, CLASSES = 16, 16, 8, 10
STATE = 4 * BATCH * CHANNELS * SIDE * SIDE
"""Bytes of one hidden state of the tower."""


PLAIN = Interpolate()
WAYS = {
    "Cut()": Cut(),
    "PatchUp(block=3)": PatchUp(block=3),
    "PatchUp(block=3, soft=False)": PatchUp(block=3, soft=False),
}
"""Ways of mixing whose cost is counted too."""


@dataclass(frozen=True)
class Cost:
    """The operators that ran and the bytes that were allocated."""

    calls: int
    """Operators that the dispatcher ran, forward and backward."""
    allocated: int
    """Bytes of all new tensors, without views and in-place results."""
    peak: int
    """Maximal bytes of new tensors that were alive at the same time."""
    reads: int
    """Operators that return a number to Python; on a GPU, Python waits for each of them."""

    def __sub__(self, other: "Cost") -> "Cost":
        mine, theirs = astuple(self), astuple(other)
        return Cost(*(a - b for a, b in zip(mine, theirs, strict=True)))


_READING = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.equal.default,
}


class Tally(TorchDispatchMode):
    """Counts the operators that run in its context, and the bytes of their results."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost(0, 0, 0, 0)
        self._alive = 0
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator and count its new tensors."""
        old = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        new = {id(storage): storage for storage in _storages(result) if id(storage) not in old}
        made = sum(map(self._watch, new.values()))
        self._alive += made
        peak = max(self.cost.peak, self._alive)
        before = self.cost
        reads = before.reads + (func in _READING)
        self.cost = Cost(before.calls + 1, before.allocated + made, peak, reads)
        return result

    def _watch(self, storage: torch.UntypedStorage) -> int:
        """Return the bytes of a storage, and subtract them when it is freed."""
        size, key = storage.nbytes(), id(storage)
        if key in self._watched:
            return 0

        def forget(_: Any) -> None:
            del self._watched[key]
            self._alive -= size

        self._watched[key] = weakref.ref(storage, forget)
        return size


def _storages(value: Any) -> list[torch.UntypedStorage]:
    return [leaf.untyped_storage() for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def count(step: Callable[[], None]) -> Cost:
    """Count a training step after a first one, which has one-time costs."""
    step()
    with Tally() as tally:
        step()
    return tally.cost


class Tower(nn.Sequential):
    """Blocks with outputs of equal size, so that mixing costs the same at every layer."""

    def __init__(self, blocks: int = 12) -> None:
        convolutions = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(blocks)]
        body = [nn.Sequential(conv, nn.BatchNorm2d(CHANNELS), nn.ReLU()) for conv in convolutions]
        super().__init__(*body, nn.Flatten(), nn.Linear(CHANNELS * SIDE * SIDE, CLASSES))


@contextmanager
def one_thread() -> Iterator[None]:
    """Use a single thread, so that many small operators do not wait for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def step_cost(eligible: int, *, per_sample: bool = False, blend: Blend = PLAIN) -> Cost:
    """Count a training step of the tower with a number of eligible layers; 0 is the plain step."""
    torch.manual_seed(0)
    model = Tower()
    x, y = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    criterion: nn.Module = nn.CrossEntropyLoss()
    if eligible:
        layers = [str(block) for block in range(eligible)]
        mixup = ManifoldMixup(model, layers, per_sample=per_sample, blend=blend, seed=0)
        criterion = mixup.wrap(criterion)

    def step() -> None:
        model.zero_grad()
        criterion(model(x), y).backward()

    return count(step)


def beyond_plain(eligible: int, *, per_sample: bool = False, blend: Blend = PLAIN) -> Cost:
    """Count the cost that Manifold Mixup adds to the plain step of the tower."""
    return step_cost(eligible, per_sample=per_sample, blend=blend) - step_cost(0)


def beyond_by(blend: Blend) -> Cost:
    """Count what a way of mixing adds to the plain step of the tower, at one of three layers."""
    return beyond_plain(3, blend=blend)


def python_calls(eligible: int, *, per_sample: bool = False) -> float:
    """Count the calls of Python functions that mixing adds to a step, by hooks and in backward.

    It is the mean of many steps, which draw different layers.
    """
    return _calls_of(_mlp_step(eligible, per_sample)) - _calls_of(_mlp_step(0))


def _mlp_step(eligible: int, per_sample: bool = False) -> Callable[[], None]:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(13)))
    x, y = torch.randn(BATCH, 8), torch.randint(8, (BATCH,))
    criterion: nn.Module = nn.CrossEntropyLoss()
    if eligible:
        layers = [str(layer) for layer in range(eligible)]
        mixup = ManifoldMixup(model, layers, per_sample=per_sample, seed=0)
        criterion = mixup.wrap(criterion)
    return lambda: criterion(model(x), y).backward()


@one_thread()
def _calls_of(step: Callable[[], None], steps: int = 60) -> float:
    for _ in range(steps):
        step()
    calls = 0

    def see(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        for _ in range(steps):
            step()
    finally:
        sys.setprofile(before)
    return calls / steps


def graphs(eligible: int) -> int:
    """Count the graphs of a compiled tower after each of its eligible layers was drawn."""
    made = 0

    def backend(graph: Any, _: Any) -> Any:
        nonlocal made
        made += 1
        return graph.forward

    torch.manual_seed(0)
    model = torch.compile(Tower(blocks=eligible), backend=backend, dynamic=False)
    x, y = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.zeros(BATCH, dtype=torch.long)
    mixup = ManifoldMixup(model, [str(block) for block in range(eligible)], example=x[:2], seed=0)
    criterion, drawn = mixup.wrap(nn.CrossEntropyLoss()), set[str]()
    while len(drawn) < eligible:
        criterion(model(x), y).backward()
        assert mixup.plan is not None
        drawn.add(mixup.plan.layer)
    return made


def broken(found: dict[str, Any]) -> list[str]:
    """Return the violated limits of the counts; empty if there are none."""
    one, three, twelve = found["beyond"].values()
    state, small = found["state"], 16 * 1024  # bytes for a plan and a second loss, with a margin
    rules = {
        f"they grow with the eligible layers: {one}, {three}, {twelve}": one == three == twelve,
        f"{one['calls']} operator calls, at most 30": one["calls"] <= 30,
        f"{one['reads']} numbers read, at most λ and the loss, on the CPU": one["reads"] <= 2,
        f"{one['allocated']} bytes allocated, at most two states": (
            one["allocated"] <= 2 * state + small
        ),
        f"{one['peak']} bytes at peak, at most one state": one["peak"] <= state + small,
        f"{found['graphs']} graphs for 3 layers, one each": found["graphs"] == 3,
    }
    for name, cost in found["ways"].items():
        rules |= _rules_of(name, cost, state, small)
    return [rule for rule, kept in rules.items() if not kept]


def _rules_of(name: str, cost: dict[str, int], state: int, small: int) -> dict[str, bool]:
    """Return the limits of a way that weighs positions, and whether each is kept.

    The tower has 16 examples, so a weight of all channels is a sixteenth of a state, and there are
    a few of them for a moment: the patches, and their weights forward and backward.
    """
    weights = state // 2
    return {
        f"{name}: {cost['calls']} operator calls, at most 80": cost["calls"] <= 80,
        f"{name}: {cost['reads']} numbers read, at most 6": cost["reads"] <= 6,
        f"{name}: {cost['allocated']} bytes allocated, at most two states and weights": (
            cost["allocated"] <= 2 * state + weights + small
        ),
        f"{name}: {cost['peak']} bytes at peak, at most one state and weights": (
            cost["peak"] <= state + weights // 2 + small
        ),
    }
