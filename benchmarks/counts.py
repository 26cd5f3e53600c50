"""What a training step costs in operator calls and bytes: counts, which no busy machine disturbs.

Both the benchmark and `tests/test_cost.py` use them.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from manifold_mixup import ManifoldMixup

BATCH, CHANNELS, SIDE, CLASSES = 16, 16, 8, 10
STATE = 4 * BATCH * CHANNELS * SIDE * SIDE
"""Bytes of one hidden state of the tower."""


@dataclass(frozen=True)
class Cost:
    """What ran and what was allocated."""

    calls: int
    """Operators that the dispatcher ran, forward and backward."""
    allocated: int
    """Bytes of all new tensors; views and in-place results are none."""
    peak: int
    """The most bytes of them that were alive at once."""

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(
            self.calls - other.calls, self.allocated - other.allocated, self.peak - other.peak
        )


class Tally(TorchDispatchMode):
    """Counts the operators that run inside, and the bytes of what they make."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost(0, 0, 0)
        self._alive = 0
        self._watched: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator and note what it made."""
        old = {id(storage) for storage in _storages((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        new = {id(storage): storage for storage in _storages(result) if id(storage) not in old}
        made = sum(map(self._watch, new.values()))
        self._alive += made
        peak = max(self.cost.peak, self._alive)
        self.cost = Cost(self.cost.calls + 1, self.cost.allocated + made, peak)
        return result

    def _watch(self, storage: torch.UntypedStorage) -> int:
        """Return the bytes of a storage, and take them off again when it dies."""
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
    """Count one training step, after one that settles what only the first one does."""
    step()
    with Tally() as tally:
        step()
    return tally.cost


class Tower(nn.Sequential):
    """Blocks whose outputs are all of one size: wherever it mixes, the mix costs the same."""

    def __init__(self, blocks: int = 12) -> None:
        convolutions = [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(blocks)]
        body = [nn.Sequential(conv, nn.BatchNorm2d(CHANNELS), nn.ReLU()) for conv in convolutions]
        super().__init__(*body, nn.Flatten(), nn.Linear(CHANNELS * SIDE * SIDE, CLASSES))


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the many small operators of a counted step from waiting for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def step_cost(eligible: int, *, per_sample: bool = False) -> Cost:
    """Count a training step of the tower with so many eligible layers; 0 is the plain step."""
    torch.manual_seed(0)
    model = Tower()
    x, y = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.randint(CLASSES, (BATCH,))
    criterion: nn.Module = nn.CrossEntropyLoss()
    if eligible:
        layers = [str(block) for block in range(eligible)]
        criterion = ManifoldMixup(model, layers, per_sample=per_sample, seed=0).wrap(criterion)

    def step() -> None:
        model.zero_grad()
        criterion(model(x), y).backward()

    return count(step)


def beyond_plain(eligible: int, *, per_sample: bool = False) -> Cost:
    """Count what Manifold Mixup adds to the plain step of the tower."""
    return step_cost(eligible, per_sample=per_sample) - step_cost(0)
