"""The numbers of a table from finished runs: each row's spread, and its difference to its baseline.

Every mean has its n, so that an incomplete table can be shown.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.evaluate.statistics import Difference, Spread, paired_difference, spread
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.evaluation import When
from manifold_mixup.lab.runs.result import Result

WHEN: tuple[When, When] = ("last", "best")


class EvaluatedRun(NamedTuple):
    """A finished run, and the results of `evaluate` for its last and its best epoch."""

    result: Result
    evaluation: Mapping[When, Mapping[str, Any]]


Runs = Mapping[Recipe, Mapping[int, EvaluatedRun]]
"""Finished runs, by recipe (with seed 0) and by seed."""


@dataclass(frozen=True)
class Cell:
    """Our numbers for one column of one row.

    Attributes:
        spread: the spread over the seeds; ``None`` if no run is finished.
        difference: the difference to the baseline, over the seeds that both have finished.
    """

    spread: Spread | None = None
    difference: Difference | None = None


@dataclass(frozen=True)
class Line:
    """A row with our numbers by epoch and by the column's key."""

    row: Row
    cells: Mapping[When, Mapping[str, Cell]]

    @property
    def n(self) -> int:
        """The number of finished seeds."""
        return max((c.spread.n for c in self.cells["last"].values() if c.spread), default=0)


def lines(table: Table, runs: Runs) -> list[Line]:
    """Return the lines of all rows.

    Args:
        table: the table.
        runs: the finished runs.
    """
    by_label = {row.label: runs.get(row.run, {}) for row in table.rows if row.run is not None}
    result = []
    for row in table.rows:
        runs_of_row, base = by_label.get(row.label, {}), by_label.get(row.base, {})
        cells = {
            when: {column.key: _cell(column, when, runs_of_row, base) for column in table.columns}
            for when in WHEN
        }
        result.append(Line(row, cells))
    return result


def _cell(
    column: Measure, when: When, own: Mapping[int, EvaluatedRun], base: Mapping[int, EvaluatedRun]
) -> Cell:
    values, others = _values(column, when, own), _values(column, when, base)
    both = sorted(values.keys() & others.keys())
    return Cell(
        spread([values[seed] for seed in sorted(values)]) if values else None,
        paired_difference([values[s] for s in both], [others[s] for s in both]) if both else None,
    )


def _values(column: Measure, when: When, runs: Mapping[int, EvaluatedRun]) -> dict[int, float]:
    values = {seed: _value(column, when, run) for seed, run in runs.items()}
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def _value(column: Measure, when: When, run: EvaluatedRun) -> float:
    if column.training:
        epoch = len(run.result.curve) if when == "last" else run.result.best_epoch
        return float(getattr(run.result.curve[epoch - 1], column.key))
    return column.read(getattr(run.result, when), run.evaluation.get(when, {}))
