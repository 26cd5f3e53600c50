"""What Manifold Mixup costs: python benchmarks/overhead.py [--quick] [--json FILE].

Ways that are compared run in turns, so that a change of the machine's mood meets all of them; each
is compared with the reference of its own round, and the median over the rounds is reported. Counts
of operators and bytes stand beside the timings, since no other process disturbs them.

Needs torchvision and timm for their mixups.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import counts
import steps
from manifold_mixup import MixPlan, mix
from steps import PAPER, TWELVE, Task

WARM_UP = 2  # rounds that are not counted; the first one of ours also checks the layers


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    mix_batch: int
    mix_seconds: float
    step_batch: int
    step_seconds: float
    imports: int


FULL = Effort(mix_batch=64, mix_seconds=20, step_batch=64, step_seconds=270, imports=7)
QUICK = Effort(mix_batch=8, mix_seconds=0, step_batch=2, step_seconds=0, imports=1)


@dataclass(frozen=True)
class Timing:
    """One way of doing something, against the reference of the same rounds."""

    name: str
    rounds: int
    milliseconds: float
    """Median."""
    ratio: float
    """Median of the ratios to the reference."""
    quarter: float
    """A quarter of the ratios lies below."""
    three_quarters: float
    """A quarter of the ratios lies above."""


# Measuring


def interleave(ways: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Time all ways in turns, each round in an order of its own, until the time is up."""
    names, order = list(ways), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < WARM_UP + 1 or time.perf_counter() < end:
        for name in order.sample(names, len(names)):
            times[name].append(_seconds_of(ways[name]))
        rounds += 1
    return {name: taken[WARM_UP:] for name, taken in times.items()}


def _seconds_of(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def compare(ways: dict[str, Callable[[], object]], seconds: float) -> list[Timing]:
    """Time all ways in turns against the first."""
    times = interleave(ways, seconds)
    reference = next(iter(times.values()))
    return [_timing(name, taken, reference) for name, taken in times.items()]


def _timing(name: str, times: list[float], reference: list[float]) -> Timing:
    ratios = [mine / other for mine, other in zip(times, reference, strict=True)]
    quarter, median, three_quarters = _quartiles(ratios)
    milliseconds = 1000 * statistics.median(times)
    return Timing(name, len(times), milliseconds, median, quarter, three_quarters)


def _quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values * 2 if len(values) == 1 else values, method="inclusive")


# What is measured


def mix_ways(batch: int) -> dict[str, Callable[[], object]]:
    """Mix one hidden state, forward and backward: 33 MB for a batch of 64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 128, 32, 32, generator=generator).requires_grad_()
    gradient = torch.randn(x.shape, generator=generator)
    plan = MixPlan("", torch.tensor(0.3), torch.randperm(batch, generator=generator))
    lam, perm = plan.lam, plan.perm
    forwards: dict[str, Callable[[], torch.Tensor]] = {
        "`mix(x, plan)`": lambda: mix(x, plan),
        "`lam * x + (1 - lam) * x[perm]`": lambda: lam * x + (1 - lam) * x[perm],
        "`x.index_select(0, perm).lerp(x, lam)`": lambda: x.index_select(0, perm).lerp(x, lam),
        "`x.clone()`, the floor": lambda: x.clone(),
    }

    def both(forward: Callable[[], torch.Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(), x, gradient)

    return {name: both(forward) for name, forward in forwards.items()}


def step_ways(batch: int) -> dict[str, Callable[[], object]]:
    """Train a ResNet-18 for one step."""
    return {
        "plain step": steps.plain(Task(batch)),
        "plain step, once more": steps.plain(Task(batch)),
        "**ManifoldMixup**, S = input, layer1, layer2": steps.ours(Task(batch), PAPER),
        "**ManifoldMixup**, S = layer1": steps.ours(Task(batch), ("layer1",)),
        "**ManifoldMixup**, S of 12 layers": steps.ours(Task(batch), TWELVE),
        "plain formula at the same layers": steps.naive(Task(batch)),
        "two passes at the same layers": steps.two_pass(Task(batch)),
        "torchvision `v2.MixUp`, input only": steps.torchvision_mixup(Task(batch)),
        "timm `Mixup`, input only": steps.timm_mixup(Task(batch)),
    }


def import_times(times: int) -> dict[str, float]:
    """Return the milliseconds that torch takes to import and, after it, this library."""
    program = (
        "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); "
        "import manifold_mixup; print(b - a, time.perf_counter() - b)"
    )
    runs = [_seconds_printed_by(program) for _ in range(times)]
    torch_times, library_times = zip(*runs, strict=True)
    return {
        "torch": 1000 * statistics.median(torch_times),
        "manifold_mixup": 1000 * statistics.median(library_times),
    }


def _seconds_printed_by(program: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return [float(word) for word in done.stdout.split()]


def measure(effort: Effort) -> dict[str, Any]:
    """Measure everything."""
    say("importing")
    imports = import_times(effort.imports)
    say("counting")
    beyond = {layers: asdict(counts.beyond_plain(layers)) for layers in (1, 3, 12)}
    say(f"timing the mix, {effort.mix_seconds:.0f} s")
    mixes = compare(mix_ways(effort.mix_batch), effort.mix_seconds)
    say(f"timing training steps, {effort.step_seconds:.0f} s")
    trained = compare(step_ways(effort.step_batch), effort.step_seconds)
    return {
        "machine": machine(),
        "effort": asdict(effort),
        "mix": [asdict(timing) for timing in mixes],
        "step": [asdict(timing) for timing in trained],
        "beyond_plain": beyond,
        "state_bytes": counts.STATE,
        "import_ms": imports,
    }


def machine() -> dict[str, Any]:
    """Describe what the numbers depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def say(what: str) -> None:
    """Show progress beside the table, not in it."""
    print(f"{what} ...", file=sys.stderr, flush=True)


# The table


def report(result: dict[str, Any]) -> str:
    """Return everything as Markdown."""
    on, effort, imports = result["machine"], result["effort"], result["import_ms"]
    size = 4 * effort["mix_batch"] * 128 * 32 * 32 / 1e6
    sections = [
        f"{on['cpu']}, {on['cores']} cores, {on['threads']} threads, PyTorch {on['torch']}, Python "
        f"{on['python']}. Medians over rounds in which all ways take turns; in brackets the middle "
        f"half of the ratios, each to the first row of its own round.",
        f"The mix alone, {size:.0f} MB float32, forward and backward "
        f"({result['mix'][0]['rounds']} rounds):\n\n" + _timings(result["mix"]),
        f"A whole training step, ResNet-18 at 32 x 32, batch {effort['step_batch']} "
        f"({result['step'][0]['rounds']} rounds):\n\n" + _timings(result["step"]),
        "Beyond the plain step of a 12-block network, counted:\n\n" + _counts(result),
        f"Importing the library after torch: {imports['manifold_mixup']:.0f} ms "
        f"(torch itself: {imports['torch']:.0f} ms).",
    ]
    return "\n\n".join(sections)


def _timings(rows: list[dict[str, Any]]) -> str:
    return _table(
        ("", "ms", "ratio"),
        [
            (
                row["name"],
                f"{row['milliseconds']:.1f}",
                f"{row['ratio']:.3f} ({row['quarter']:.3f} to {row['three_quarters']:.3f})",
            )
            for row in rows
        ],
    )


def _counts(result: dict[str, Any]) -> str:
    state = result["state_bytes"]
    return _table(
        ("eligible layers", "operator calls", "allocated, in states", "at peak, in states"),
        [
            (
                str(layers),
                f"+{cost['calls']}",
                f"+{cost['allocated'] / state:.2f}",
                f"+{cost['peak'] / state:.2f}",
            )
            for layers, cost in result["beyond_plain"].items()
        ],
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    rule = ("---",) + ("---:",) * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def main() -> None:
    """Measure, print the table, and write the numbers if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: its numbers say nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here")
    options = parser.parse_args()
    if options.quick:
        torch.set_num_threads(1)  # quick on a busy machine too
    result = measure(QUICK if options.quick else FULL)
    print(report(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
