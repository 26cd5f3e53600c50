"""The time in which the recipes `fast` reach their target, with and without mixing."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.recipes.fast import TARGETS, fast
from manifold_mixup.lab.training.loop import train


@dataclass(frozen=True)
class Reached:
    """The results of a recipe, a number for each seed.

    Attributes:
        method: the method.
        seconds: training time, without evaluation.
        last: test error in percent after the last epoch.
        best: test error in percent after the best epoch.
    """

    method: str
    seconds: tuple[float, ...]
    last: tuple[float, ...]
    best: tuple[float, ...]


def reach(
    name: str, model: str, *, root: Path, seeds: int, say: Callable[[str], None]
) -> dict[str, object]:
    """Train the recipes of a task, alternating no mixup and manifold mixup.

    Args:
        name: the data set.
        model: the network.
        root: folder of the data sets.
        seeds: number of seeds.
        say: called before each training with a description.
    """
    plain, _, mixed = fast(name, model)
    data = datasets.load_for(plain, root=root)
    found = {run.method: list[tuple[float, float, float]]() for run in (plain, mixed)}
    for seed in range(seeds):
        for run in (plain, mixed):
            say(f"{name}, {run.method}, seed {seed}")
            result = train(replace(run, seed=seed), data)
            found[run.method].append((result.seconds, result.last.error, result.best.error))
    rows = [Reached(method, *zip(*each, strict=True)) for method, each in found.items()]
    return {
        "target": TARGETS[name, model],
        "recipe": asdict(mixed),
        "rows": [asdict(row) for row in rows],
    }
