"""A table of the paper: rows with recipes, columns, and the reported numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.recipes.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: its label, which starts with its group.
        run: its recipe; ``None`` for a number that the paper quotes from others.
        paper: the reported numbers by the column's key: the mean and, if stated, the standard
            deviation.
        base: the label of its baseline; empty for a baseline.
        group: the network or data set in the label, if there are several.
    """

    label: str
    run: Recipe | None
    paper: Mapping[str, tuple[float, ...]]
    base: str = ""
    group: str = ""

    @property
    def name(self) -> str:
        """Its label without the group."""
        return self.label.removeprefix(f"{self.group}, ")


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        name: its name on the command line.
        title: its title.
        columns: its columns.
        rows: its rows; in every group, the row without mixing is first.
        settings: the settings of `evaluate`, if a column needs it.
        unknown: data sets that serve as outliers.
        note: a note on the protocol, printed below the table.
        picture: the kind of its picture: ``"plane"``, classifiers of points in the plane;
            ``"states"``, the states of a layer of two units; ``"spectra"``, singular values;
            ``"curves"``, the training loss by epoch; empty for none.
    """

    name: str
    title: str
    columns: Sequence[Measure]
    rows: tuple[Row, ...]
    settings: Settings = field(default_factory=Settings)
    unknown: tuple[str, ...] = ()
    note: str = ""
    picture: Literal["", "plane", "states", "spectra", "curves"] = ""

    @property
    def battery(self) -> tuple[str, ...]:
        """The parts of `evaluate` that the columns need."""
        parts = (column.battery[0] for column in self.columns if column.battery is not None)
        return tuple(dict.fromkeys(parts))
