"""Timing of several implementations in turns, so that the machine's load affects all equally."""

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

WARM_UP = 2  # rounds that are not counted; in the first one, ours also checks the layers
WIDE = 0.25
"""A ratio is no result if its range is wider than this share of the median."""
FEWEST = 5
"""A ratio is no result with fewer rounds."""
_SHORTEST = 20e-3  # seconds; shorter code is repeated


class Way(NamedTuple):
    """Code to time, and code that prepares its argument outside the measured time."""

    run: Callable[..., object]
    prepare: Callable[[], object] | None = None


@dataclass(frozen=True)
class Timing:
    """The timing of an implementation, compared with a reference.

    `compare` takes the first one in the same rounds, `added` the median of what a given one adds.
    """

    name: str
    rounds: int
    milliseconds: float
    """The median time."""
    ratio: float
    """The median of the ratios to the reference."""
    quarter: float
    """The first quartile of the ratios."""
    three_quarters: float
    """The third quartile of the ratios."""
    interval: tuple[float, float] | None = None
    """The 95 % interval of the median, where it is judged by that and not by the quartiles."""

    @property
    def range(self) -> tuple[float, float]:
        """What must be narrow: the interval of the median, or the quartiles."""
        return self.interval or (self.quarter, self.three_quarters)

    @property
    def fault(self) -> str:
        """Why the ratio is no result; empty if it is one."""
        if self.rounds < FEWEST:
            return "too few rounds"
        low, high = self.range
        return "too wide" if high - low > WIDE * abs(self.ratio) else ""


def compare(ways: Mapping[str, Way], seconds: float, *, device: str = "cpu") -> list[Timing]:
    """Time all implementations in turns, in a random order in each round.

    Args:
        ways: the implementations by name, the reference first.
        seconds: the total time; there are at least `FEWEST` rounds, or one round for 0 seconds.
        device: the device, which is synchronised if it is a GPU.
    """
    times = in_turns(ways, seconds, Clock(device))
    reference = times[next(iter(ways))]
    return [timing(name, taken, reference) for name, taken in times.items()]


def added(ways: Mapping[str, Way], seconds: float, *, plain: str, reference: str) -> list[Timing]:
    """Return what each implementation adds to the plain one, in processor time.

    What a single round adds is a small difference of large numbers, which scatters by a third. So
    the median is judged by its own interval.

    Args:
        ways: the implementations by name.
        seconds: the total time, as for `compare`.
        plain: the implementation that all others add to; it is left out.
        reference: the one whose median addition is the unit of the ratios.
    """
    times = in_turns(ways, seconds, Clock("cpu", now=time.process_time))
    base = times.pop(plain)  # noise may make a single difference negative
    more = {
        name: [mine - least for mine, least in zip(taken, base, strict=True)]
        for name, taken in times.items()
    }
    unit = statistics.median(more[reference])
    return [in_units(name, taken, unit) for name, taken in more.items()]


def in_units(name: str, times: list[float], unit: float) -> Timing:
    """Summarise times as multiples of a unit; the median is judged by its own interval."""
    interval = interval_of_median([each / unit for each in times])
    return replace(timing(name, times, [unit] * len(times)), interval=interval)


def in_turns(ways: Mapping[str, Way], seconds: float, clock: "Clock") -> dict[str, list[float]]:
    """Return the seconds of all implementations in each round."""
    fewest = WARM_UP + (FEWEST if seconds else 1)
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
    return {name: taken[WARM_UP:] for name, taken in times.items()}


class Clock:
    """A clock that waits for the device.

    Args:
        device: the device.
        now: returns the seconds.
    """

    def __init__(self, device: str, *, now: Callable[[], float] = time.perf_counter) -> None:
        self.cuda = torch.device(device).type == "cuda"
        self.now = now

    def seconds(self, way: Way, repeat: int) -> float:
        """Return the seconds of several runs in a row."""
        made: list[Any] = [(way.prepare(),) if way.prepare else () for _ in range(repeat)]
        start = self._now()
        for arguments in made:
            way.run(*arguments)
        return self._now() - start

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return self.now()


def timing(name: str, times: list[float], reference: list[float]) -> Timing:
    """Summarise times, and their ratios to the times of a reference in the same rounds."""
    ratios = [mine / other for mine, other in zip(times, reference, strict=True)]
    quarter, median, three_quarters = _quartiles(ratios)
    milliseconds = 1000 * statistics.median(times)
    return Timing(name, len(times), milliseconds, median, quarter, three_quarters)


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """Return an interval that holds the median of the distribution with 95 % probability, or more.

    It lies between two order statistics, whatever the distribution: each value is below the median
    with probability ½ (David and Nagaraja, Order Statistics, 2003, section 7.1). Fewer than six
    values reach less than 95 %; their range is returned.
    """
    ranked, n = sorted(values), len(values)
    outside, lowest = 0.0, 0
    while (outside := outside + math.comb(n, lowest) / 2**n) <= 0.025:
        lowest += 1
    lowest = max(lowest - 1, 0)
    return ranked[lowest], ranked[-1 - lowest]


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values * 2 if len(values) == 1 else values, method="inclusive")
