"""A table of the paper, ready for training: its runs, and how each is evaluated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.paper.numbers import WHEN
from manifold_mixup.lab.paper.scale import Scale
from manifold_mixup.lab.paper.tables import Table
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.evaluation import When, evaluated


@dataclass(frozen=True)
class Reproduction:
    """Options that have been checked, ready for training.

    Attributes:
        table: the scaled table.
        scale: the scale.
        groups: the runs, grouped by data set.
        evaluate: evaluates a finished run; ``None`` if its scores are enough.
        workers: the number of runs trained in parallel.
        out: the output folder.
        on: where the runs are trained.
        gpus: the GPUs that Ray reserves for each run.
    """

    table: Table
    scale: Scale
    groups: Sequence[tuple[Data, Sequence[Recipe]]]
    evaluate: "Evaluation | None"
    workers: int
    out: Path
    on: processes.Place = "here"
    gpus: float = 0.0

    @property
    def runs(self) -> tuple[Recipe, ...]:
        """The runs of all groups."""
        return tuple(run for _, group in self.groups for run in group)

    @property
    def title(self) -> str:
        """The title of the table, with the scale if it is not the paper's."""
        short = str(self.scale)
        marked = f". SCALED, not the paper's protocol: {short}" if short else ""
        return f"{self.table.title}{marked}"


@dataclass(frozen=True)
class Evaluation:
    """The evaluation that a table needs, for the last and for the best epoch of a run."""

    table: Table
    tested: int | None

    def __call__(
        self, folder: Path, data: Data, tell: Callable[[str], None] = lambda _: None
    ) -> dict[When, dict[str, Any]]:
        """Evaluate a finished run, or read its stored evaluation."""

        def show(when: When, done: int, count: int, name: str) -> None:
            tell(f"{when} epoch evaluated: {done} of {count}, {name}")

        tested = data if self.tested is None else datasets.take_tested(data, self.tested)
        return {
            when: evaluated(
                folder,
                data,
                when,
                battery=self.table.battery,
                settings=self.table.settings,
                tested=tested,
                progress=partial(show, when),
            )
            for when in WHEN
        }
