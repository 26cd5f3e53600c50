"""The results of `analyze spectra` as Markdown."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from manifold_mixup.lab.evaluate.statistics import paired_difference, spread
from manifold_mixup.lab.report.table import difference_text, spread_text

Rows = Mapping[int, Mapping[str, Any]]
"""The row of a layer in the battery part ``spectra``, by seed."""


class _Column(NamedTuple):
    """The path of a number in a row, its digits, and whether methods are compared by it."""

    path: tuple[str, ...]
    digits: int
    compared: bool = False

    def read(self, row: Mapping[str, Any]) -> float:
        value: Any = row
        for step in self.path:
            value = value[step]
        return float(value)


_KINDS = {
    "states as they are": {
        "s₁": _Column(("uncentred", "s1"), 2),
        "rest": _Column(("uncentred", "rest"), 2),
        "s₁, %": _Column(("uncentred", "s1_share"), 1),
        "outside, %": _Column(("uncentred", "outside"), 1, True),
    },
    "centred in each class": {
        "s₁": _Column(("centred", "s1"), 2),
        "rest": _Column(("centred", "rest"), 2),
        "outside, %": _Column(("centred", "outside"), 1, True),
        "within, %": _Column(("within",), 1, True),
    },
}
_SEEN = {"seen, %": _Column(("seen",), 1, True)}
READING = (
    "Singular values of the states of a class, one example per row, averaged over the classes; "
    "mean ± standard deviation over the seeds. s₁: the greatest one; rest: the sum of the others; "
    "s₁, %: the share of s₁ in the sum of all; outside: share of the squares outside the first "
    "direction; within: share of the variance of all states that is within classes. Centred: the "
    "mean of the class is subtracted, so that squares are variance; the paper's spectra do not "
    "seem to be centred. Singular values grow with the square root of the number of examples; "
    "shares do not. Below shares: the paired difference to the first method over the same seeds, "
    "with its 95 % interval."
)
SEEN = (
    "Features are the input of the classifier. Seen: share of the variance within classes in the "
    "row space of the classifier. By the corollary of Theorem 1, it is zero for a classifier that "
    "is exact on mixed states."
)


def spectra_table(layers: Mapping[str, Mapping[str, Rows]], *, title: str) -> str:
    """Return tables for every layer, with the methods as rows.

    Args:
        layers: the rows of the evaluations, by layer and method.
        title: the title of the page.
    """
    lines = [f"# {title}", ""]
    for layer, methods in layers.items():
        for kind, columns in _KINDS.items():
            lines += [f"**{layer}, {kind}**", "", *_grid(methods, columns), ""]
    return "\n".join([*lines, READING, *([SEEN] if "features" in layers else []), ""])


def _grid(methods: Mapping[str, Rows], columns: Mapping[str, _Column]) -> Iterator[str]:
    base = next(iter(methods.values()))
    has_seen = "within, %" in columns and all("seen" in row for row in base.values())
    all_columns = {**columns, **(_SEEN if has_seen else {})}
    yield f"| | {' | '.join(all_columns)} | n |"
    yield f"|---|{'---:|' * (len(all_columns) + 1)}"
    for method, rows in methods.items():
        cells = [_cell(column, rows, base) for column in all_columns.values()]
        yield f"| {method} | {' | '.join(cells)} | {len(rows)} |"


def _cell(column: _Column, rows: Rows, base: Rows) -> str:
    text = spread_text(spread([column.read(row) for row in rows.values()]), column.digits)
    both = sorted(rows.keys() & base.keys())
    if not column.compared or rows is base or not both:
        return text
    values, base_values = (
        [column.read(seed_rows[seed]) for seed in both] for seed_rows in (rows, base)
    )
    difference = paired_difference(values, base_values)
    below = difference_text(difference, column.digits)
    return f"{text}<br>**{below}**" if difference.excludes_zero else f"{text}<br>{below}"
