"""The paper's tables, and its figures as tables: the recipe and the reported numbers of every row.

Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States, ICML 2019
(arXiv 1806.05236v7). Where text and published code disagree, ``docs/reproduce.md`` explains our
choice.

Imported by: commands, playground, report, terminal.
Imports: evaluate, recipes, runs.
"""

from collections.abc import Callable

from manifold_mixup.lab.paper import choices, factors, figures, networks, robustness, variants
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.suggest import unknown

__all__ = ["TABLES", "Row", "Table", "table"]

TABLES: dict[str, Callable[[], Table]] = {
    "table-1a": networks.table_1a,
    "table-1b": networks.table_1b,
    "table-2": networks.table_2,
    "table-3": networks.table_3,
    "table-4": robustness.table_4,
    "table-5": choices.table_5,
    "table-6": choices.table_6,
    "table-7": robustness.table_7,
    "table-8": factors.table_8,
    "table-9": robustness.table_9,
    "preact50": variants.preact50,
    "gradient-block": variants.gradient_block,
    "knn": variants.knn,
    "low-data": variants.low_data,
    "label-noise": variants.label_noise,
    "outliers": robustness.outliers,
    "figure-1": figures.figure_1,
    "figure-2": figures.figure_2,
    "figure-5": figures.figure_5,
    "figure-6": figures.figure_6,
    "figure-7": figures.figure_7,
    "spectra": figures.spectra,
}


def table(name: str) -> Table:
    """Return a table of the paper.

    Raises:
        ValueError: there is no such table.
    """
    if name not in TABLES:
        raise ValueError(f"{unknown('table', name, TABLES)}.")
    return TABLES[name]()
