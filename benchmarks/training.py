"""The cost of the lab's training loop, compared with plain loops that train the same.

All loops train a narrow PreActResNet18 on images like CIFAR's, with the same batch size, precision
and optimizer. Two loops run in turns: each step of one is followed by a step of the other (on a
GPU, by several), so that the machine's load affects both equally. Timings of whole epochs would
differ by a tenth for the same loop. The loops:

- *plain*: a shuffled index, with crops and mirroring of whole batches.
- *DataLoader*: PyTorch's, with torchvision's transforms of single images, as in tutorials.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.turns import Timing, timing
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.data.augment import Augment
from manifold_mixup.lab.data.loader import Loader
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training import optimizers
from manifold_mixup.lab.training.loop import train

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


def images(count: int) -> Data:
    """Return random images of CIFAR's shape."""
    x = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    y = torch.randint(0, 10, (count,))
    moments = {"mean": (0.49, 0.48, 0.45), "std": (0.25, 0.24, 0.26)}
    return Data("random images", x, y, x[:100], y[:100], 10, 8 / 255, "pixels", (0, 1), **moments)


class Pictures(Dataset[tuple[Tensor, Tensor]]):
    """Single images, each augmented with torchvision's transforms."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.transform = v2.Compose(
            [
                v2.RandomCrop(32, padding=2),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.data.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.data.x[index]), self.data.y[index]


def plain_batches(run: Recipe, data: Data) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of an epoch, with crops and mirroring of whole batches."""
    x, y = data.x.to(run.device), data.y.to(run.device)
    order = torch.randperm(len(x), device=run.device)
    for rows in order.split(run.batch):
        pad = torch.nn.functional.pad(x[rows], (2, 2, 2, 2))
        windows = pad.unfold(2, 32, 1).unfold(3, 32, 1)
        at = torch.randint(0, 5, (2, len(rows)), device=run.device)
        out = windows[torch.arange(len(rows), device=run.device), :, at[0], at[1]]
        mirrored = torch.rand(len(rows), 1, 1, 1, device=run.device) < 0.5
        yield torch.where(mirrored, out.flip(3), out).float() / 255, y[rows]


def plain_steps(run: Recipe, data: Data, batches: Batches) -> Iterator[None]:
    """Train with PyTorch alone, one step per iteration."""
    model = fresh_model(run, data).to(run.device).train()
    optimizer = optimizers.build(model, run)
    device = torch.device(run.device).type
    while True:
        for x, y in batches():
            if run.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device, torch.bfloat16, enabled=run.precision == "bf16"):
                loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            yield


class Turns:
    """Times two loops in turns: the plain one, and the one that calls `swap` after every step."""

    def __init__(self, run: Recipe, data: Data) -> None:
        self.plain = plain_steps(run, data, lambda: plain_batches(run, data))
        self.cuda = torch.device(run.device).type == "cuda"
        self.stride = 20 if self.cuda else 1  # synchronising a GPU at every step would slow both
        self.seconds: list[tuple[float, float]] = []  # per step: the other loop, the plain loop
        self._steps = 0
        self._began: float | None = None

    def swap(self, _: float = 0.0) -> None:
        """Let the plain loop do as many steps as the other loop has done."""
        self._steps += 1
        if self._steps % self.stride:
            return
        now = self._now()
        for _ in range(self.stride):
            next(self.plain)
        after = self._now()
        if self._began is not None:  # the first turn has one-time costs
            self.seconds.append(((now - self._began) / self.stride, (after - now) / self.stride))
        self._began = after

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def loader_seconds(run: Recipe, data: Data) -> float:
    """Return the seconds that the loader alone takes for an epoch."""
    augment = Augment(flip=run.flip, crop=run.crop, cutout=0)
    loader = Loader(
        data.x, data.y, run.batch, augment=augment, seed=0, device=run.device,
        channels_last=run.channels_last,
    )  # fmt: skip
    start = time.perf_counter()
    for x, _ in loader.epoch(1):
        del x
    if run.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def idle_share(run: Recipe, data: Data, *, first: int = 20, steps: int = 50) -> float:
    """Profile some steps of an epoch; return the share of time in which the GPU idles."""
    profiler = profile(activities=[ProfilerActivity.CUDA])
    done = 0

    def on_step(_: float) -> None:
        nonlocal done
        done += 1
        if done in (first, first + steps):
            torch.cuda.synchronize()
            profiler.start() if done == first else profiler.stop()

    train(run, data, on_step=on_step)
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()
        if event.device_type == DeviceType.CUDA
    ]
    return idle(spans)


def idle(spans: list[tuple[float, float]]) -> float:
    """Return the share of time, from the first to the last span, that no span covers."""
    spans = sorted(spans)
    begin = end = spans[0][0]
    covered = 0.0
    for start, stop in spans:
        covered += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return 1 - covered / (end - begin)


def in_turn(
    run: Recipe, data: Data, train_by: Callable[[Turns], object]
) -> list[tuple[float, float]]:
    """Train an epoch of a loop in turns with the plain loop; return the seconds of each turn."""
    turns = Turns(run, data)
    train_by(turns)
    return turns.seconds


def by_steps(steps: Iterator[None], count: int) -> Callable[[Turns], object]:
    """Return a loop of ``count`` steps that takes turns with the plain loop."""

    def loop(turns: Turns) -> None:
        for _ in range(count):
            next(steps)
            turns.swap()

    return loop


def recipe(width: int | None, precision: str, device: str) -> Recipe:
    """Return the recipe of all loops."""
    return Recipe(
        data="random images", model="preact-resnet18", width=width, epochs=1, optimizer="sgd",
        lr=0.01, schedule="constant", flip=True, crop=2, precision=precision, channels_last=True,
        device=device,
    )  # fmt: skip


def compare_loops(run: Recipe, data: Data, rounds: int) -> tuple[list[Timing], float]:
    """Time a step of each loop, compared with the plain loop's step in the same turn.

    Returns:
        The timings, the first of which compares the plain loop with itself, and the milliseconds
        per step of our loader.
    """
    mixed = replace(run, layers=("input", "layer1", "layer2"), alpha=2.0)
    count = len(data.x) // run.batch
    pictures = DataLoader(Pictures(data), run.batch, shuffle=True)
    again = plain_steps(run, data, lambda: plain_batches(run, data))
    by_picture = plain_steps(run, data, lambda: iter(pictures))
    ways: dict[str, Callable[[Turns], object]] = {
        "the plain loop, beside itself": by_steps(again, count),
        "**the lab's**, no mixup": lambda turns: train(run, data, on_step=turns.swap),
        "**the lab's**, manifold mixup": lambda turns: train(mixed, data, on_step=turns.swap),
        "`DataLoader` and transforms": by_steps(by_picture, count),
    }
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    alone = []
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name] += in_turn(run, data, way)
        alone.append(loader_seconds(run, data) / count)
    timings = [
        timing(name, *map(list, zip(*turns, strict=True))) for name, turns in seconds.items()
    ]
    return timings, 1e3 * median(alone)
