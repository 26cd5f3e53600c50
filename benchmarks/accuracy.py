"""The time in which the recipes `fast` reach an accuracy, with mixing and without."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.recipes.fast import TARGETS, fast
from manifold_mixup.lab.training.loop import train


@dataclass(frozen=True)
class Reached:
    """What one recipe came to, a number for each seed.

    Attributes:
        method: how it mixes.
        seconds: of training, evaluation left out.
        last: error on the test set after the last epoch, in percent.
        best: after the epoch in which it was least.
    """

    method: str
    seconds: tuple[float, ...]
    last: tuple[float, ...]
    best: tuple[float, ...]


def reach(
    name: str, model: str, *, root: Path, seeds: int, say: Callable[[str], None]
) -> dict[str, object]:
    """Train the recipes for a task, no mixup and manifold mixup in turn.

    Args:
        name: the data set.
        model: the network.
        root: where data sets lie.
        seeds: how many of each.
        say: told before each training.
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
