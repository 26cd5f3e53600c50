"""What Manifold Mixup costs: python -m benchmarks [PART ...] [--quick] [--out FOLDER].

Ways that are compared run in turns, so that a change of the machine's mood meets all of them; each
is compared with the reference of its own round, and the median over the rounds is reported. Where
the ratios of a way spread too far, the table says so and gives none. Counts of operators and bytes
stand beside the timings, since no other process disturbs them: they alone can fail.
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

from benchmarks import accuracy, counts, imports, memory, mixes, steps, tables, training
from benchmarks.tasks import TASKS, resnet18
from benchmarks.turns import Way, compare
from manifold_mixup.lab.runs import provenance
from manifold_mixup.lab.training import malloc
from manifold_mixup.lab.training.device import emulates_bf16

Found = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is measured, and where.

    Attributes:
        megabytes: sizes of the state that is mixed.
        seconds: for each comparison of mixes.
        step_seconds: for each comparison of training steps.
        batch: of a step; ``None`` is each task's own.
        eligible: numbers of layers, of which a step mixes one; compiled, each layer is a graph.
        images: in an epoch of a loop.
        width: of the network that loops train.
        rounds: epochs that each loop trains.
        seeds: trainings of each recipe `fast`.
        root: where data sets lie.
        imports: how often Python is started.
        device: where.
        compiled: whether compiled ways are timed too.
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
    device: str = "cpu"
    compiled: bool = False


# Not narrower: with two channels, channels last, on AVX2, PyTorch 2.14 damages its own heap in the
# backward pass of the plain loop.
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
    """Time the mix once more with memory kept, as the lab has it, where the C library does that."""
    return mix(effort) if effort.device == "cpu" and malloc.keep_freed() else {"cells": []}


# A graph for each layer; those beyond the limit would be run eagerly, in silence.
@torch._dynamo.config.patch(recompile_limit=64, fail_on_recompile_limit_hit=True)
def step(effort: Effort) -> Found:
    """Time a training step of every task with S of 1, 3 and 12 layers, beside one without."""
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
    """Time a step of ResNet-18 as others mix, beside ours and the plain one."""
    say("a step as peers do it")

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
        say("fastai is not installed and left out")
    else:
        ways["fastai `MixUp`, input only"] = steps.fastai_mixup(task())
    timings = compare(_ways(ways), 3 * effort.step_seconds, device=effort.device)
    return {"timings": list(map(dataclasses.asdict, timings))}


def peak(effort: Effort) -> Found:
    """Measure the peak memory of a step of every task, with mixing against without."""
    found = {}
    for name, make in TASKS.items():
        say(f"memory of {name}")
        batch = [effort.batch] if effort.batch else []
        found[name] = memory.peaks(partial(make, *batch, device=effort.device), effort.device)
    return found


def loops(effort: Effort) -> Found:
    """Time the lab's training loop end to end, beside the plainest one and a ``DataLoader``."""
    data, found = training.images(effort.images), {}
    # bfloat16 that is computed by way of float32 takes ten times as long and says nothing.
    for precision in ("float32",) if emulates_bf16(effort.device) else ("float32", "bf16"):
        say(f"training in {precision}")
        run = training.recipe(effort.width, precision, effort.device)
        timings, loader = training.compare_loops(run, data, effort.rounds)
        rows = list(map(dataclasses.asdict, timings))
        found[precision] = {"timings": rows, "batch": run.batch, "loader_milliseconds": loader}
    return found


def times_to_accuracy(effort: Effort) -> Found:
    """Train the recipes `fast`, with mixing and without."""
    root = Path(effort.root).expanduser()
    return {
        f"{data}, {model}": accuracy.reach(data, model, root=root, seeds=effort.seeds, say=say)
        for data, model in accuracy.TARGETS
    }


def count(_: Effort) -> Found:
    """Count what mixing adds to a step: operators, bytes, waits, and graphs if compiled."""
    say("counting")
    beyond = {layers: dataclasses.asdict(counts.beyond_plain(layers)) for layers in (1, 3, 12)}
    return {"beyond": beyond, "state": counts.STATE, "graphs": counts.graphs(3)}


def start(effort: Effort) -> Found:
    """Time the import of the library."""
    say("importing")
    return imports.times(effort.imports)


PARTS: dict[str, Callable[[Effort], Found]] = {
    "counts": count,
    "imports": start,
    "memory": peak,
    "mix": mix,
    "peers": peers,
    "step": step,
    # From here on memory is kept, for good: the lab's training asks for it.
    "accuracy": times_to_accuracy,
    "training": loops,
    "mix-kept": mix_kept,
}


def _ways(ways: dict[str, Callable[[], None]]) -> dict[str, Way]:
    return {name: Way(way) for name, way in ways.items()}


def say(what: str) -> None:
    """Show progress beside the table, not in it."""
    print(f"{what} ...", file=sys.stderr, flush=True)


def main() -> None:
    """Measure, print the tables, and write them with the numbers if asked to."""
    parser = argparse.ArgumentParser("benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; or all")
    parser.add_argument("--quick", action="store_true", help="a smoke run: its times say nothing")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compiled", action="store_true", help="compiled ways too: many minutes")
    parser.add_argument("--root", default=Effort.root, help="where data sets lie")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the tables and numbers")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}. Known: {', '.join(PARTS)}")
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here that this PyTorch can use: --device cpu")
    if options.quick:
        torch.set_num_threads(1)  # quick on a busy machine too
    asked = {"device": options.device, "compiled": options.compiled, "root": options.root}
    effort = dataclasses.replace(QUICK if options.quick else Effort(), **asked)
    usual = [name for name in PARTS if not (options.quick and name == "accuracy")]  # minutes
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
        sys.exit("\n".join(["Counts that have grown:", *broken]))


if __name__ == "__main__":
    main()
