"""What `analyze spectra` found, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manifold_mixup.lab.evaluate.statistics import paired_difference, spread
from manifold_mixup.lab.report.table import difference_text, spread_text

Rows = Mapping[int, Mapping[str, Any]]
"""By seed, the row of a layer in the battery part ``spectra``."""

_COLUMNS = {
    "s₁": ("uncentred", "s1", 2),
    "sum of the rest": ("uncentred", "rest", 2),
    "s₁, % of the sum": ("uncentred", "s1_share", 1),
    "centred: s₁": ("centred", "s1", 2),
    "centred: rest": ("centred", "rest", 2),
    "% of the variance outside the first direction": ("centred", "outside", 1),
}
READING = (
    "Singular values of the states of a class, one example a row, mean over the classes; mean ± "
    "standard deviation over the seeds. Centred: the mean of the class taken off, so that their "
    "squares are its variance. The paper's seem not to be centred. They grow with the root of the "
    "number of examples; shares do not. Below the last column, the paired difference to the first "
    "method over the same seeds with its 95 % interval."
)
SEEN = (
    "Features: the variance within classes that lies in the row space of the classifier. By the "
    "corollary of Theorem 1 a classifier that is exact on mixed states leaves it none."
)


def spectra_table(layers: Mapping[str, Mapping[str, Rows]], *, title: str) -> str:
    """Render what was found: for every layer a table, its rows the methods.

    Args:
        layers: by layer and method.
        title: of the page.
    """
    lines = [f"# {title}", ""]
    for layer, methods in layers.items():
        lines += [f"**{layer}**", "", *_layer(methods), ""]
    return "\n".join([*lines, READING, *([SEEN] if "features" in layers else []), ""])


def _layer(methods: Mapping[str, Rows]) -> Iterator[str]:
    seen = any("seen" in row for rows in methods.values() for row in rows.values())
    titles = [*_COLUMNS, *(["% of it seen by the classifier"] if seen else [])]
    yield f"| | {' | '.join(titles)} | n |"
    yield f"|---|{'---:|' * (len(titles) + 1)}"
    base = next(iter(methods.values()))
    for method, rows in methods.items():
        cells = [_cell([row[kind][key] for row in rows.values()], digits)
                 for kind, key, digits in _COLUMNS.values()]  # fmt: skip
        if rows is not base:
            cells[-1] += _gap(rows, base)
        if seen:
            cells.append(_cell([row["seen"] for row in rows.values()], 1))
        yield f"| {method} | {' | '.join(cells)} | {len(rows)} |"


def _cell(values: Sequence[float], digits: int) -> str:
    return spread_text(spread(values), digits)


def _gap(rows: Rows, base: Rows) -> str:
    both = sorted(rows.keys() & base.keys())
    if not both:
        return ""
    own, other = ([of[seed]["centred"]["outside"] for seed in both] for of in (rows, base))
    gap = paired_difference(own, other)
    text = difference_text(gap, 1)
    return f"<br>**{text}**" if gap.excludes_zero else f"<br>{text}"
