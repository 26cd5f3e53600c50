"""Measure the cost of Manifold Mixup: python -m benchmarks [PART ...] [--quick] [--out FOLDER].

The implementations to compare run in turns, so that changes in the machine's load affect all of
them. Each is compared with the reference of the same round, and the median over the rounds is
reported. If the ratios spread too far, the table states that instead. Besides timings, operators
and bytes are counted. Other processes do not disturb these counts, so only they can fail.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks import (
    accuracy,
    counts,
    first,
    fixed,
    imports,
    look,
    memory,
    mixes,
    over_time,
    steps,
    tables,
    training,
    ways,
)
from benchmarks.tasks import TASKS, resnet18
from benchmarks.turns import Way, compare
from manifold_mixup.lab.runs import provenance
from manifold_mixup.lab.training import malloc
from manifold_mixup.lab.training.device import emulates_bf16

Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much to measure, and on which device.

    Attributes:
        megabytes: sizes of the mixed state.
        seconds: time for each comparison of mixes.
        step_seconds: time for each comparison of training steps.
        batch: batch size of a step; ``None`` for each task's own.
        eligible: numbers of eligible layers; a compiled model has a graph for each.
        images: number of images in an epoch of the training loops.
        width: width of the network in the training loops.
        rounds: epochs of each training loop.
        seeds: trainings of each recipe `fast`.
        root: folder of the data sets.
        imports: number of Python processes that are started.
        share: by how much the batches of `ways` are divided.
        families: number of models that are looked at.
        device: the device.
        compiled: whether compiled implementations are timed too.
    """

    megabytes: tuple[float, ...] = (1, 8, 64, 512)
    seconds: float = 4
    step_seconds: float = 60
    batch: int | None = None
    eligible: tuple[int, ...] = (1, 3, 12)
    images: int = 10_000
    width: int = 16
    rounds: int = 2
    seeds: int = 5
    root: str = "~/.cache/manifold-mixup"
    imports: int = 7
    share: int = 1
    families: int = len(look.FAMILIES)
    device: str = "cpu"
    compiled: bool = False


# The width must be at least 8: with two channels in channels-last format on AVX2, PyTorch 2.14
# corrupts its heap in the backward pass of the plain loop.
QUICK = Effort(
    megabytes=(1,),
    seconds=0,
    step_seconds=0,
    batch=2,
    eligible=(3,),
    images=500,
    width=8,
    rounds=1,
    imports=1,
    share=64,
    families=1,
)


def mix(effort: Effort) -> Found:
    """Time the mix alone."""
    found = []
    for cell in mixes.cells(
        list(effort.megabytes), effort.seconds, device=effort.device, compiled=effort.compiled
    ):
        say(f"mix, {cell.megabytes:.0f} MB {cell.dtype}, {cell.mode}, {cell.phase}")
        found.append({**cell._asdict(), "timings": list(map(dataclasses.asdict, cell.timings))})
    return {"cells": found}


def mix_kept(effort: Effort) -> Found:
    """Time the mix with freed memory kept, as in the lab; empty if the C library cannot do that."""
    return mix(effort) if effort.device == "cpu" and malloc.keep_freed() else {"cells": []}


def way(effort: Effort) -> Found:
    """Time CutMix and PatchUp, alone and at the input, where torchvision's CutMix is too."""
    found: Found = {"cells": [], "inputs": []}
    asked = {"share": effort.share, "device": effort.device}
    with torch._dynamo.config.patch(recompile_limit=256, fail_on_recompile_limit_hit=True):
        for cell in ways.cells(effort.seconds, compiled=effort.compiled, **asked):
            say(", ".join(["ways", cell.shape, cell.dtype, cell.layout, cell.mode, cell.phase]))
            timings = list(map(dataclasses.asdict, cell.timings))
            found["cells"].append({**cell._asdict(), "timings": timings})
    for side in ways.inputs(effort.seconds, **asked):
        say(f"ways, input of {side['shape']}")
        timings = list(map(dataclasses.asdict, side["timings"]))
        found["inputs"].append({**side, "timings": timings})
    return found


def ways_kept(effort: Effort) -> Found:
    """Time the ways with freed memory kept; empty if the C library cannot do that."""
    kept = effort.device == "cpu" and malloc.keep_freed()
    return way(effort) if kept else {"cells": [], "inputs": []}


# There is a graph for each layer; graphs beyond the default limit would silently run eagerly.
@torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True)
def step(effort: Effort) -> Found:
    """Time a training step of every task with 1, 3 and 12 eligible layers, and without mixing."""
    found = {}
    for name, make in TASKS.items():
        for mode in ("eager", "compiled") if effort.compiled else ("eager",):
            say(f"step of {name}, {mode}")

            def task(make: Callable[..., Any] = make, mode: str = mode) -> Any:
                one = make(*([effort.batch] if effort.batch else []), device=effort.device)
                if mode == "compiled":
                    one.model.compile(dynamic=False)
                return one

            ways = {"plain step": steps.plain(task()), "the same once more": steps.plain(task())}
            for count in effort.eligible:
                one = task()
                layers = one.layers[:: len(one.layers) // count][:count]
                way = steps.ours(one, layers, compiled=mode == "compiled")
                ways[f"**ManifoldMixup**, S of {count}"] = way
            timings = compare(_ways(ways), effort.step_seconds, device=effort.device)
            found[f"{name}, {mode}"] = list(map(dataclasses.asdict, timings))
    return found


def peers(effort: Effort) -> Found:
    """Time a step of ResNet-18 with other implementations, with ours, and without mixing."""
    say("a step with other implementations")

    def task() -> Any:
        return resnet18(*([effort.batch] if effort.batch else []), device=effort.device)

    ways = {
        "plain step": steps.plain(task()),
        "the same once more": steps.plain(task()),
        "**ManifoldMixup**, S = input, layer1, layer2": steps.ours(task(), steps.PAPER),
        "the plain formula at the same layers": steps.naive(task()),
        "two passes at the same layers": steps.two_pass(task()),
        "torchvision `v2.MixUp`, input only": steps.torchvision_mixup(task()),
        "timm `Mixup`, input only": steps.timm_mixup(task()),
    }
    if find_spec("fastai") is None:
        say("without fastai, which is not installed")
    else:
        ways["fastai `MixUp`, input only"] = steps.fastai_mixup(task())
    timings = compare(_ways(ways), 3 * effort.step_seconds, device=effort.device)
    return {"timings": list(map(dataclasses.asdict, timings))}


def peak(effort: Effort) -> Found:
    """Measure the peak memory of a step of every task, with and without mixing."""
    found = {}
    for name, make in TASKS.items():
        say(f"memory of {name}")
        batch = [effort.batch] if effort.batch else []
        found[name] = memory.peaks(partial(make, *batch, device=effort.device), effort.device)
    return found


def loops(effort: Effort) -> Found:
    """Time the lab's training loop end to end, and compare a plain loop and a ``DataLoader``."""
    data, found = training.images(effort.images), {}
    # Emulated bfloat16 takes ten times as long, and its timings are meaningless.
    for precision in ("float32",) if emulates_bf16(effort.device) else ("float32", "bf16"):
        say(f"training in {precision}")
        run = training.recipe(effort.width, precision, effort.device)
        timings, loader = training.compare_loops(run, data, effort.rounds)
        rows = list(map(dataclasses.asdict, timings))
        found[precision] = {"timings": rows, "batch": run.batch, "loader_milliseconds": loader}
    return found


def times_to_accuracy(effort: Effort) -> Found:
    """Train the recipes `fast` with and without mixing."""
    root = Path(effort.root).expanduser()
    return {
        f"{data}, {model}": accuracy.reach(data, model, root=root, seeds=effort.seeds, say=say)
        for data, model in accuracy.TARGETS
    }


def count(_: Effort) -> Found:
    """Count what mixing adds to a step: operators, bytes, reads, and graphs if compiled."""
    say("counting")
    beyond = {layers: dataclasses.asdict(counts.beyond_plain(layers)) for layers in (1, 3, 12)}
    by_way = {
        name: dataclasses.asdict(counts.beyond_by(blend)) for name, blend in counts.WAYS.items()
    }
    return {
        "beyond": beyond,
        "ways": by_way,
        "state": counts.STATE,
        "graphs": counts.graphs(3),
    }


def start(effort: Effort) -> Found:
    """Time the import of the library."""
    say("importing")
    return imports.times(effort.imports)


@counts.one_thread()
def looks(effort: Effort) -> Found:
    """Time looks at models, and the first step with a mask, on one thread."""
    say("looking")
    families = look.measure(effort.families, effort.rounds)
    small = effort.step_seconds == 0
    say("loops")
    looped = over_time.measure(1 if small else 5, small=small)
    say("the first step with a mask")
    steps = first.measure(1 if small else 5, small=small)
    return {"families": families, "loops": looped, "first": steps}


@counts.one_thread()
def fixed_cost(effort: Effort) -> Found:
    """Time what mixing adds to a step of a small network, on one thread."""
    say("the fixed cost of a step")
    return {
        str(width): list(map(dataclasses.asdict, timings))
        for width, timings in fixed.measure(effort.step_seconds)
    }


@counts.one_thread()
def adapter_cost(effort: Effort) -> Found:
    """Time what mixing adds to a step of a small network in an adapter, on one thread."""
    from benchmarks import adapters  # which needs Transformers

    say("the fixed cost in an adapter")
    return {"timings": list(map(dataclasses.asdict, adapters.measure(effort.step_seconds)))}


PARTS: dict[str, Callable[[Effort], Found]] = {
    "counts": count,
    "adapters": adapter_cost,
    "fixed": fixed_cost,
    "imports": start,
    "look": looks,
    "memory": peak,
    "mix": mix,
    "peers": peers,
    "step": step,
    "ways": way,
    # The lab's training keeps freed memory from here on, for the rest of the process.
    "accuracy": times_to_accuracy,
    "training": loops,
    "mix-kept": mix_kept,
    "ways-kept": ways_kept,
}


def _ways(ways: dict[str, Callable[[], None]]) -> dict[str, Way]:
    return {name: Way(way) for name, way in ways.items()}


def say(what: str) -> None:
    """Print progress on the error output, separate from the tables."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print the tables, and optionally write them with the numbers."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__.partition("\n")[0])
    parts = f"parts to run: {', '.join(PARTS)}; default: all"
    parser.add_argument("parts", nargs="*", metavar="PART", help=parts)
    parser.add_argument("--quick", action="store_true", help="smoke test: its times mean nothing")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compiled", action="store_true", help="time compiled code too; slow")
    parser.add_argument("--root", default=Effort.root, help="folder of the data sets")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write tables and numbers here")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}. Known: {', '.join(PARTS)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("this PyTorch finds no GPU. Use --device cpu.")
    if options.quick:
        torch.set_num_threads(1)  # faster on a busy machine
    asked = {"device": options.device, "compiled": options.compiled, "root": options.root}
    effort = dataclasses.replace(QUICK if options.quick else Effort(), **asked)
    usual = [name for name in PARTS if not (options.quick and name == "accuracy")]  # takes minutes
    found = {name: part(effort) for name, part in PARTS.items() if name in (options.parts or usual)}
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "threads": torch.get_num_threads(),
        "effort": {k: v for k, v in dataclasses.asdict(effort).items() if k != "root"},
        **provenance.describe(),
        **found,
    }
    page = tables.page(result)
    print(page)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "benchmarks.md").write_text(page)
        (options.out / "benchmarks.json").write_text(json.dumps(result, indent=1) + "\n")
    if "counts" in found and (broken := counts.broken(found["counts"])):
        sys.exit("\n".join(["Counts above their limits:", *broken]))


if __name__ == "__main__":
    main()
