"""Scales: shorter and smaller versions of a table."""

from dataclasses import dataclass, replace

from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.suggest import unknown


@dataclass(frozen=True)
class Scale:
    """The scale of a table; ``None`` keeps the paper's value.

    Attributes:
        epochs: maximal number of passes over the training set; milestones move in proportion.
        width: channels of the first stage, or units of a perceptron's hidden layers.
        examples: number of training examples; recipes with ``per_class`` keep their own number.
        test: number of test examples.
        tested: number of test examples for attacks, deformations, neighbours and outliers.
        lr: peak learning rate. The gradient of the authors' loss is only about 2 / classes of
            cross-entropy's, so a short training on a hundred classes needs another one.
    """

    epochs: int | None = None
    width: int | None = None
    examples: int | None = None
    test: int | None = None
    tested: int | None = None
    lr: float | None = None

    def __str__(self) -> str:
        """Return the settings that differ from the paper, in words."""
        words = {
            "1 epoch" if self.epochs == 1 else "{:,} epochs": self.epochs,
            "width {:,}": self.width,
            "{:,} training examples": self.examples,
            "{:,} test examples": self.test,
            "{:,} test examples for attacks, deformations, neighbours and outliers": self.tested,
            "learning rate {:g}": self.lr,
        }
        return ", ".join(text.format(value) for text, value in words.items() if value is not None)


FULL = Scale()
SCALES = {
    "full": FULL,
    "laptop": Scale(epochs=100, width=16, examples=2_500, test=2_000, tested=1_000),
    "smoke": Scale(epochs=1, width=2, examples=100, test=20),
}


_OWN = {
    ("laptop", "figure-1"): FULL,  # takes only minutes
    ("laptop", "figure-2"): FULL,
    ("laptop", "figure-5"): Scale(width=256, examples=10_000, lr=1e-3),
    ("laptop", "table-8"): Scale(width=8),
    ("laptop", "spectra"): Scale(width=256, examples=10_000, lr=1e-3),
    ("smoke", "figure-5"): Scale(epochs=1, width=16, examples=100, test=200),
    ("smoke", "spectra"): Scale(epochs=1, width=16, examples=200, test=600),
}
"""The scales of tables of perceptrons and small networks."""


def scale(name: str, table: str = "") -> Scale:
    """Return a scale by name, for a table.

    Raises:
        ValueError: there is no such scale.
    """
    if name not in SCALES:
        raise ValueError(f"{unknown('scale', name, SCALES)}.")
    return _OWN.get((name, table), SCALES[name])


def scaled(table: Table, scale: Scale) -> Table:
    """Return a table with every recipe scaled."""
    return replace(table, rows=tuple(_scaled_row(row, scale) for row in table.rows))


def _scaled_row(row: Row, scale: Scale) -> Row:
    return row if row.run is None else replace(row, run=_scaled_run(row.run, scale))


def _scaled_run(run: Recipe, scale: Scale) -> Recipe:
    epochs = min(run.epochs, scale.epochs or run.epochs)
    return replace(
        run,
        epochs=epochs,
        milestones=tuple(round(milestone * epochs / run.epochs) for milestone in run.milestones),
        width=scale.width or run.width,
        lr=scale.lr or run.lr,
        examples=run.examples if run.per_class is not None else scale.examples or run.examples,
    )
