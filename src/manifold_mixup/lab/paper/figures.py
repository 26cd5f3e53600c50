"""Figures 1 and 2, two spirals, and the spectra on MNIST, as tables: every claim is a number."""

from dataclasses import replace

from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.paper.protocol import at_input, manifold, none
from manifold_mixup.lab.paper.tables import ERROR, NLL, Column, Row, Table
from manifold_mixup.lab.recipes import Run

# The paper names neither optimizer nor schedule nor α of manifold mixup for its spirals.
_SPIRALS = Run(
    data="spirals",
    model="spiral-mlp",
    loss="softmax_bce",
    epochs=500,
    batch=100,
    optimizer="adam",
    lr=1e-3,
    schedule="one-cycle",
    weight_decay=0.0,
    width=None,
)
_BOTTLENECK = ("spectra", "bottleneck")
_SPIRAL_COLUMNS = (
    NLL,
    ERROR,
    Column(
        "confident",
        "% of the plane with confidence above 0.95",
        digits=1,
        battery=("plane", "inputs"),
        field="confident",
    ),
    Column(
        "within",
        "% of the hidden variance that is within classes",
        battery=_BOTTLENECK,
        field="within",
    ),
    Column(
        "second",
        "% of the hidden variance along the second direction of a class",
        battery=_BOTTLENECK,
        field="second",
    ),
)
_SPIRAL_NOTE = (
    "The paper shows pictures and no numbers. It gives the nine layers, the bottleneck of two "
    "units, α = 1 for input mixup and the dropout of 50 %; the rest is ours: 200 points a class, "
    "128 units, Adam, 500 epochs, α = 2 for manifold mixup, and the strength of noise and decay."
)


def figure_1() -> Table:
    """No mixup, input mixup and manifold mixup at the bottleneck."""
    methods = (none(_SPIRALS), at_input(_SPIRALS), manifold(_SPIRALS))
    return _spiral_table("figure-1", "Figure 1: two spirals", methods)


def figure_2() -> Table:
    """The other regularisers beside manifold mixup."""
    plain = none(_SPIRALS)
    methods = (
        plain,
        replace(plain, method="weight decay 0.001", weight_decay=1e-3),
        replace(plain, method="noise 0.1", noise=0.1),
        replace(plain, method="dropout 0.5", dropout=0.5),
        replace(plain, method="batch norm", batch_norm=True),
        at_input(_SPIRALS),
        manifold(_SPIRALS),
    )
    return _spiral_table("figure-2", "Figure 2: two spirals, other regularisers", methods)


def _spiral_table(name: str, title: str, methods: tuple[Run, ...]) -> Table:
    return Table(
        name,
        title,
        _SPIRAL_COLUMNS,
        tuple(_row(run, methods[0].method) for run in methods),
        settings=Settings(layers=("bottleneck",)),
        note=_SPIRAL_NOTE,
        picture="plane",
        quick=True,
    )


def _row(run: Run, base: str) -> Row:
    return Row(run.method, run, {}, "" if run.method == base else base)
