"""What the paper's Figure 1 claims, as numbers over seeds; and the spectra of trained networks."""

from dataclasses import replace
from pathlib import Path

import pytest

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import evaluations, paper, runs
from manifold_mixup.lab.grid import train_all
from manifold_mixup.lab.paper.numbers import Found, lines
from manifold_mixup.lab.paper.scale import Scale, scaled

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def figure_1(tmp_path_factory):
    """No mixup and manifold mixup at the bottleneck, three seeds, 200 epochs of the 500."""
    folder, data = tmp_path_factory.mktemp("spirals"), datasets.load("spirals", root=Path())
    table = scaled(paper.table("figure-1"), Scale(epochs=200))
    table = replace(table, rows=(table.rows[0], table.rows[2]))
    every = [replace(row.run, seed=seed) for row in table.rows for seed in range(3)]
    found = {}
    for result in train_all(every, data, workers=2, on_epoch=lambda *_: None, folder=folder):
        at = folder / runs.folder_name(result.run)
        evaluation = evaluations.evaluated(
            at, data, "last", battery=table.battery, settings=table.settings
        )
        of_run = found.setdefault(replace(result.run, seed=0), {})
        of_run[result.run.seed] = Found(result, {"last": evaluation, "best": evaluation})
    return lines(table, found)


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
