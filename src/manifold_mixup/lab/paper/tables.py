"""What a table of the paper is: rows with recipes, columns, and the numbers it reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.recipes.recipe import Recipe


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
