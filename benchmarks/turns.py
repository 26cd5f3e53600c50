"""Ways of doing something, timed in turns, so that what the machine does meanwhile meets all."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

WARM_UP = 2  # rounds that are not counted; the first one of ours also checks the layers
WIDE = 0.25
"""Where the middle half of the ratios is wider than this share of their median, there is none."""
FEWEST = 5
"""Rounds below which there is none either."""
_SHORTEST = 20e-3  # seconds: what is shorter is repeated


class Way(NamedTuple):
    """Something to be timed, and what it needs made before, outside the clock."""

    run: Callable[..., object]
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Timing:
    """One way of doing something, against the first way in the same rounds."""

    name: str
    rounds: int
    milliseconds: float
    """Median."""
    ratio: float
    """Median of the ratios to the first way."""
    quarter: float
    """A quarter of the ratios lies below."""
    three_quarters: float
    """A quarter of the ratios lies above."""

    @property
    def fault(self) -> str:
        """Return why the ratio is no result; empty if it is one."""
        if self.rounds < FEWEST:
            return "too few rounds"
        wide = self.three_quarters - self.quarter > WIDE * self.ratio
        return "too wide" if wide else ""


def compare(ways: Mapping[str, Way], seconds: float, *, device: str = "cpu") -> list[Timing]:
    """Time all ways in turns against the first, each round in an order of its own.

    Args:
        ways: by name.
        seconds: how long; `FEWEST` rounds are made in any case, and for 0 seconds a single one.
        device: on a GPU the clock waits for it.
    """
    clock, fewest = _Clock(device), WARM_UP + (FEWEST if seconds else 1)
    first = next(iter(ways.values()))
    once = min(clock.seconds(first, 1) for _ in range(3))
    repeat = max(1, round(_SHORTEST / once)) if seconds else 1
    names, order = list(ways), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < fewest or time.perf_counter() < end:
        for name in order.sample(names, len(names)):
            times[name].append(clock.seconds(ways[name], repeat) / repeat)
        rounds += 1
    counted = {name: taken[WARM_UP:] for name, taken in times.items()}
    return [timing(name, taken, counted[names[0]]) for name, taken in counted.items()]


class _Clock:
    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"

    def seconds(self, way: Way, repeat: int) -> float:
        """Time a way that is run some times in a row."""
        made: list[Any] = [(way.prepare(),) if way.prepare else () for _ in range(repeat)]
        start = self._now()
        for arguments in made:
            way.run(*arguments)
        return self._now() - start

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def timing(name: str, times: list[float], reference: list[float]) -> Timing:
    """Sum up the seconds of something, and its ratios to those of a reference beside it."""
    ratios = [mine / other for mine, other in zip(times, reference, strict=True)]
    quarter, median, three_quarters = _quartiles(ratios)
    milliseconds = 1000 * statistics.median(times)
    return Timing(name, len(times), milliseconds, median, quarter, three_quarters)


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values * 2 if len(values) == 1 else values, method="inclusive")
