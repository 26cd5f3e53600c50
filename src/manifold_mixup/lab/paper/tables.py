"""What a table of the paper is: rows with recipes, columns, and the numbers it reports."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from manifold_mixup.lab.evaluate import Scores, Settings
from manifold_mixup.lab.recipes.recipe import Recipe


@dataclass(frozen=True)
class Column:
    """A number that a table has for each of its rows.

    Attributes:
        key: by which a `Row` gives the paper's number.
        title: what the column is called.
        digits: how many are shown after the point.
        better: the direction one wants it to go.
        battery: the part of `evaluate` that finds it, and the name of its row there; ``None`` if
            it is one of the `Scores` that every run has.
        field: its name in that row, dots between the names of nested ones.
        training: whether it is one of the numbers of an `Epoch`, as the training loss is.
    """

    key: str
    title: str
    digits: int = 2
    better: Literal["lower", "higher"] = "lower"
    battery: tuple[str, str] | None = None
    field: str = ""
    training: bool = False

    def read(self, scores: Scores, evaluation: Mapping[str, Any]) -> float:
        """Find the number among the scores of a run, or in what `evaluate` returned.

        It is NaN if there is none, which JSON writes as ``null``.
        """
        if self.battery is None:
            return float(getattr(scores, self.key))
        part, name = self.battery
        (value,) = (row for row in evaluation[part] if row["name"] == name)
        for step in self.field.split("."):
            value = value[step]
        return math.nan if value is None else float(value)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: what the table calls it, after its group.
        run: its recipe; ``None`` for a number that the paper itself only quotes.
        paper: what the paper reports, by the column's key: the mean and, where it is given, the
            standard deviation.
        base: label of the row it is compared with; empty for that row itself.
        group: the network or data set that the label begins with, where there are several.
    """

    label: str
    run: Recipe | None
    paper: Mapping[str, tuple[float, ...]]
    base: str = ""
    group: str = ""

    @property
    def name(self) -> str:
        """What it is called within its group."""
        return self.label.removeprefix(f"{self.group}, ")


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        name: by which it is asked for.
        title: what it shows.
        columns: what it reports.
        rows: its rows, in every group the one without mixing first.
        settings: of `evaluate`, where a column needs it.
        unknown: data sets whose test images the models have never seen anything like.
        note: what a reader has to know about the protocol.
        picture: what is drawn of it: ``"plane"``, classifiers of points in the plane;
            ``"states"``, those of a layer of two units; ``"spectra"``, singular values;
            ``"curves"``, the training loss by epoch.
    """

    name: str
    title: str
    columns: Sequence[Column]
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


ERROR = Column("error", "error %")
NLL = Column("nll", "NLL", digits=3)
