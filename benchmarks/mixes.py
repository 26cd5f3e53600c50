"""The mix alone, compared with a copy of the same bytes, which is the limit, and alternatives."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.turns import Timing, Way, compare
from manifold_mixup import MixPlan, mix

CHANNELS, SIDE = 128, 32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
COPY = "`x.clone()`, the limit"
Forward = Callable[[Tensor, MixPlan], Tensor]


class Cell(NamedTuple):
    """The settings of a comparison, and its timings."""

    megabytes: float
    dtype: str
    mode: str
    phase: str
    timings: list[Timing]


def forwards() -> dict[str, Forward]:
    """Return the implementations of the mix by name; each takes ``x`` and a plan."""
    return {
        COPY: lambda x, plan: x.clone(),
        "**`mix(x, plan)`**": mix,
        "`x.index_select(0, perm).lerp(x, lam)`": (
            lambda x, plan: x.index_select(0, plan.perm).lerp(x, plan.lam.to(x.dtype))
        ),
        "`lam * x + (1 - lam) * x[perm]`": (
            lambda x, plan: plan.lam * x + (1 - plan.lam) * x[plan.perm]
        ),
        "as torchvision mixes inputs": (
            lambda x, plan: x.roll(1, 0).mul_(1.0 - plan.lam).add_(x.mul(plan.lam))
        ),
    }


def cells(
    megabytes: list[float], seconds: float, *, device: str = "cpu", compiled: bool = True
) -> Iterator[Cell]:
    """Compare all implementations forward, backward and both, for every size and type.

    Args:
        megabytes: sizes of the state, rounded to whole examples.
        seconds: time for each comparison.
        device: the device.
        compiled: whether to compare compiled implementations too.
    """
    for size in megabytes:
        for name, dtype in DTYPES.items():
            example = CHANNELS * SIDE * SIDE * dtype.itemsize / 1e6
            state = _State(max(2, round(size / example)), dtype, device)
            for mode in ("eager", "compiled") if compiled else ("eager",):
                ways = forwards() if mode == "eager" else _compiled(forwards())
                for phase in ("forward", "backward", "both"):
                    timed = {k: state.way(forward, phase) for k, forward in ways.items()}
                    found = compare(timed, seconds, device=device)
                    yield Cell(state.megabytes, name, mode, phase, found)


def _compiled(ways: dict[str, Forward]) -> dict[str, Forward]:
    """Compile all implementations except the copy, which stays the reference."""
    return {
        name: forward if name == COPY else torch.compile(forward, dynamic=False)
        for name, forward in ways.items()
    }


class _State:
    """A hidden state, its gradient, and a plan."""

    def __init__(self, batch: int, dtype: torch.dtype, device: str) -> None:
        generator = torch.Generator().manual_seed(0)
        shape = (batch, CHANNELS, SIDE, SIDE)
        self.x, self.grad = (
            torch.randn(shape, generator=generator).to(device, dtype) for _ in range(2)
        )
        self.x.requires_grad_()
        perm = torch.randperm(batch, generator=generator)
        self.plan = MixPlan("", torch.tensor(0.3), perm).to(device)

    @property
    def megabytes(self) -> float:
        return self.x.nbytes / 1e6

    def way(self, forward: Forward, phase: str) -> Way:
        """Return the code to time for a phase; for the copy, it is a copy in every phase.

        All implementations have the same tensors alive, since new memory costs more than a copy.
        """

        def ahead() -> Tensor:
            return forward(self.x, self.plan)

        def descend(output: Tensor) -> Any:
            return torch.autograd.grad(output, self.x, self.grad)

        def copy(output: Tensor) -> Tensor:
            return self.grad.clone()  # the gradient of a copy is passed through at no cost

        if phase == "forward":
            return Way(ahead)
        is_copy = forward(self.x, self.plan).grad_fn.name() == "CloneBackward0"
        back = copy if is_copy else descend
        return Way(back, ahead) if phase == "backward" else Way(lambda: back(ahead()))
