"""CutMix and PatchUp: the mix alone, compared with a copy; and a step at the input, with others.

The mix alone takes a drawn plan: it turns a box into positions, draws the patches, and mixes. A
step draws a plan, mixes the input, runs a model of one small layer, and computes the loss.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.mixes import COPY, DTYPES
from benchmarks.turns import Timing, Way, compare
from manifold_mixup import Box, Cut, Holes, ManifoldMixup, MixedTarget, MixPlan, mix, sample_plan

SHAPES = {"32 x 32": (128, 128, 32, 32), "56 x 56": (64, 80, 56, 56)}
"""Batch, channels and sides of states of 64 MB in float32; half types have twice the batch."""
INPUTS = {"32 x 32": (128, 3, 32, 32), "224 x 224": (64, 3, 224, 224)}
CLASSES = 10
INTERPOLATED = "interpolation, one λ"


class Cell(NamedTuple):
    """The settings of a comparison, and its timings."""

    shape: str
    dtype: str
    layout: str
    mode: str
    phase: str
    timings: list[Timing]


def plans(batch: int, device: str) -> dict[str, MixPlan]:
    """Return a drawn plan of each way."""
    generator = torch.Generator().manual_seed(0)
    perm = torch.randperm(batch, generator=generator)
    each = torch.rand(batch, generator=generator)
    centres = torch.rand(batch, 3, generator=generator)
    half = torch.tensor(0.5)
    made = {
        INTERPOLATED: (half, None),
        "interpolation, λ each": (each, None),
        "**`Cut`**, one box": (half, Box((0.4, 0.6), 0.5)),
        "**`Cut`**, a box each": (each, Box(centres, 1 - each.double())),
        "**`PatchUp`**, hard": (half, Holes(7, 0.5, False, 5)),
        "**`PatchUp`**, soft": (half, Holes(7, 0.75, True, 5)),
        "**`PatchUp`**, soft, λ each": (each, Holes(7, 0.75, True, 5)),
    }
    return {
        name: MixPlan("", lam, perm, weight=weight).to(device)
        for name, (lam, weight) in made.items()
    }


def cells(
    seconds: float, *, share: int = 1, device: str = "cpu", compiled: bool = True
) -> Iterator[Cell]:
    """Compare the ways forward and backward, for every shape, type and memory format.

    Args:
        seconds: time for each comparison.
        share: by how much to divide the batch.
        device: the device.
        compiled: whether to compare compiled ways too.
    """
    for shape, sizes in SHAPES.items():
        for name, dtype in DTYPES.items():
            for layout in ("contiguous", "channels last"):
                state = _State(sizes, dtype, layout, share, device)
                for mode in ("eager", "compiled") if compiled else ("eager",):
                    for phase in ("forward", "backward"):
                        found = compare(state.ways(mode, phase), seconds, device=device)
                        yield Cell(shape, name, layout, mode, phase, found)


def _mixed(x: Tensor, plan: MixPlan) -> Tensor:
    return mix(x, plan, dims=None if plan.weight is None else (2, 3))


class _State:
    """A state, its gradient, and plans."""

    def __init__(
        self, sizes: tuple[int, ...], dtype: torch.dtype, layout: str, share: int, device: str
    ) -> None:
        batch = max(2, sizes[0] * 4 // dtype.itemsize // share)
        generator = torch.Generator().manual_seed(0)
        form = torch.channels_last if layout == "channels last" else torch.contiguous_format
        self.x, self.grad = (
            torch.randn(batch, *sizes[1:], generator=generator)
            .to(device, dtype)
            .contiguous(memory_format=form)
            for _ in range(2)
        )
        self.x.requires_grad_()
        self.plans = plans(batch, device)

    def ways(self, mode: str, phase: str) -> dict[str, Way]:
        """Return the code to time; the first is a copy of the state, or of its gradient."""
        copied = self.x.detach() if phase == "forward" else self.grad
        ways = {COPY: Way(copied.clone)}
        for name, plan in self.plans.items():
            function = torch.compile(_mixed, dynamic=False) if mode == "compiled" else _mixed
            ways[name] = self._way(function, plan, phase)
        if mode == "compiled":
            for name in self.plans:  # its graphs are made before the clock starts
                made = () if ways[name].prepare is None else (ways[name].prepare(),)
                ways[name].run(*made)
        return ways

    def _way(self, function: Callable[..., Tensor], plan: MixPlan, phase: str) -> Way:
        def ahead() -> Tensor:
            return function(self.x, plan)

        def back(output: Tensor) -> Any:
            return torch.autograd.grad(output, self.x, self.grad)

        return Way(ahead) if phase == "forward" else Way(back, ahead)


class Small(nn.Module):
    """The mean of each channel, and one layer: a model that takes little beside draw and mix."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of the classes."""
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


def inputs(seconds: float, *, share: int = 1, device: str = "cpu") -> Iterator[dict[str, Any]]:
    """Compare a step at the input with torchvision's CutMix: draw, mix, model and loss.

    Args:
        seconds: time for each comparison.
        share: by how much to divide the batch.
        device: the device.
    """
    for name, sizes in INPUTS.items():
        batch = max(2, sizes[0] // share)
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(batch, *sizes[1:], generator=generator).to(device)
        y = torch.randint(CLASSES, (batch,), generator=generator).to(device)
        torch.manual_seed(0)
        model = Small().to(device)
        ways = {
            "torchvision `v2.CutMix`, and its loss": Way(_torchvision(model, x, y)),
            "the same once more": Way(_torchvision(model, x, y)),
            "**`ManifoldMixup`**, `blend=Cut()`": Way(_attached(Small().to(device), x, y)),
            "`sample_plan`, `mix` and `MixedTarget` alone": Way(_by_values(model, x, y)),
            "the model and its loss, not mixed": Way(_plain(model, x, y)),
        }
        timings = compare(ways, seconds, device=device)
        yield {"shape": name, "batch": batch, "timings": timings}


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    return lambda: cross_entropy(model(x), y)


def _torchvision(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    from torchvision.transforms.v2 import CutMix

    cut = CutMix(num_classes=CLASSES)

    def step() -> Tensor:
        mixed, soft = cut(x, y)
        return cross_entropy(model(mixed), soft)

    return step


def _attached(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    mixup = ManifoldMixup(model, ["input"], example=x[:2], blend=Cut(), seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    return lambda: criterion(model(x), y)


def _by_values(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    generator, criterion = torch.Generator().manual_seed(0), nn.CrossEntropyLoss()

    def step() -> Tensor:
        plan = sample_plan(
            len(x),
            layers=["input"],
            alpha=1.0,
            blend=Cut(),
            generator=generator,
            device=x.device,
        )
        plan = MixPlan("input", plan.lam, plan.perm, weight=_own(plan, x))
        output = model(mix(x, plan, dims=(2, 3)))
        loss: Tensor = MixedTarget(y, plan).loss(criterion, output)
        return loss

    return step


def _own(plan: MixPlan, x: Tensor) -> Tensor:
    """Return the positions of ``x`` that are kept; its targets are mixed by their share."""
    assert isinstance(plan.weight, Box)
    return plan.weight.own(x.shape[2:])
