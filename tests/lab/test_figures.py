"""What the paper's Figure 1 claims, as numbers over seeds; and the spectra of trained networks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import evaluations, paper, runs
from manifold_mixup.lab.grid import train_all
from manifold_mixup.lab.paper.numbers import Found, lines
from manifold_mixup.lab.paper.scale import Scale, scaled

pytestmark = pytest.mark.slow


def lines_of(table, data, folder, *, seeds=3):
    """Train and evaluate the rows of a table."""
    every = [replace(row.run, seed=seed) for row in table.rows for seed in range(seeds)]
    found = {}
    for result in train_all(every, data, workers=1, on_epoch=lambda *_: None, folder=folder):
        at = folder / runs.folder_name(result.run)
        evaluation = evaluations.evaluated(
            at, data, "last", battery=table.battery, settings=table.settings
        )
        of_run = found.setdefault(replace(result.run, seed=0), {})
        of_run[result.run.seed] = Found(result, {"last": evaluation, "best": evaluation})
    return lines(table, found)


@pytest.fixture(scope="module")
def figure_1(tmp_path_factory):
    """No mixup and manifold mixup at the bottleneck, 200 epochs of the 500."""
    table = scaled(paper.table("figure-1"), Scale(epochs=200))
    table = replace(table, rows=(table.rows[0], table.rows[2]))
    data = datasets.load("spirals", root=Path())
    return lines_of(table, data, tmp_path_factory.mktemp("spirals"))


@pytest.mark.parametrize("claim", ["confident", "within", "second", "nll"])
def test_manifold_mixup_at_the_bottleneck(figure_1, claim):
    """Less confidence off the data, classes concentrated and flat, a better likelihood."""
    plain, mixed = (line.cells["last"][claim] for line in figure_1)
    assert mixed.spread.n == plain.spread.n == 3
    assert mixed.difference.mean < 0, (plain.spread, mixed.spread)


def test_the_differences_are_clear(figure_1):
    _, mixed = figure_1
    for claim, least in {"confident": 15, "within": 10}.items():
        gap = mixed.cells["last"][claim].difference
        assert gap.high < -least, gap


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """No mixup and manifold mixup at a bottleneck of 12 units, handwritten digits of 8 × 8."""
    folder = tmp_path_factory.mktemp("digits")
    found, kept = load_digits(), 1200
    x, y = (found.images[:, None] * 255 / 16).astype(np.uint8), found.target
    arrays = {"x_train": x[:kept], "y_train": y[:kept], "x_test": x[kept:], "y_test": y[kept:]}
    np.savez(folder / "digits.npz", **arrays)
    table = paper.table("spectra")
    rows = [row for row in table.rows if row.group == "12 units after three layers"]
    changed = {"data": str(folder / "digits.npz"), "epochs": 45, "batch": 100, "width": 128}
    rows = [replace(row, run=replace(row.run, lr=3e-3, **changed)) for row in (rows[0], rows[-1])]
    data = datasets.load(changed["data"], root=folder)
    return lines_of(replace(table, rows=tuple(rows)), data, folder, seeds=2)


@pytest.mark.parametrize("claim", ["outside", "within"])
def test_manifold_mixup_flattens_the_states_of_a_class(digits, claim):
    """Less lies outside the first direction of a class, and less of all variance within classes."""
    plain, mixed = (line.cells["last"][claim] for line in digits)
    assert mixed.spread.n == plain.spread.n == 2
    assert mixed.difference.mean < -0.15 * plain.spread.mean, (plain.spread, mixed.spread)
