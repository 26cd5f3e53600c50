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


class Found(NamedTuple):
    """A finished run, and the results of `evaluate` for its last and its best epoch."""

    result: Result
    evaluation: Mapping[When, Mapping[str, Any]]


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


def lines(table: Table, found: Mapping[Recipe, Mapping[int, Found]]) -> list[Line]:
    """Return the lines of all rows.

    Args:
        table: the table.
        found: finished runs, by recipe (with seed 0) and by seed.
    """
    of_label = {row.label: found.get(row.run, {}) for row in table.rows if row.run is not None}
    result = []
    for row in table.rows:
        own, base = of_label.get(row.label, {}), of_label.get(row.base, {})
        cells = {
            when: {column.key: _cell(column, when, own, base) for column in table.columns}
            for when in WHEN
        }
        result.append(Line(row, cells))
    return result


def _cell(column: Measure, when: When, own: Mapping[int, Found], base: Mapping[int, Found]) -> Cell:
    values, others = _values(column, when, own), _values(column, when, base)
    both = sorted(values.keys() & others.keys())
    return Cell(
        spread([values[seed] for seed in sorted(values)]) if values else None,
        paired_difference([values[s] for s in both], [others[s] for s in both]) if both else None,
    )


def _values(column: Measure, when: When, found: Mapping[int, Found]) -> dict[int, float]:
    values = {seed: _value(column, when, one) for seed, one in found.items()}
    return {seed: value for seed, value in values.items() if not math.isnan(value)}


def _value(column: Measure, when: When, one: Found) -> float:
    if column.training:
        epoch = len(one.result.curve) if when == "last" else one.result.best_epoch
        return float(getattr(one.result.curve[epoch - 1], column.key))
    return column.read(getattr(one.result, when), one.evaluation.get(when, {}))
