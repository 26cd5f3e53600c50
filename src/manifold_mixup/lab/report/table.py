"""The table of a comparison, for the terminal and as Markdown.

Few methods stand beside each other, many below each other.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from manifold_mixup.lab.evaluate.measures import SECONDS, Measure, Verdict
from manifold_mixup.lab.evaluate.statistics import Difference, Spread
from manifold_mixup.lab.report.summary import MANIFOLD, Row, When, measures_of

SECTIONS: dict[When, str] = {"last": "last epoch", "best": "best epoch"}
ARROW = {"lower": "↓", "higher": "↑"}
LAST_EPOCH = (
    "Mean ± standard deviation over the seeds. Below it, the paired difference to the first "
    "method over the same seeds, with its 95 % interval (Student's t); further down, that to "
    "manifold mixup, if other methods stand beside it."
)
LEGEND = f"{LAST_EPOCH} The best epoch is selected on the test set and therefore optimistic."

OFF_DATA = (
    "Conf. off data: the mean of the greatest softmax (1 / classes at least) on 1,000 inputs drawn "
    "uniformly from the box of the training inputs, a tenth wider on each side, that are farther "
    "from every training input than 99 % of the test inputs are."
)
FLATNESS = (
    "Flatness: of the states of the test set at a layer, after the last epoch. Outside: the share "
    "of a class's variance outside its first direction (singular values of its centred states, "
    "squared), mean over the classes. Within: the share of the variance of all states that is "
    "within classes. Paper's s₁: the greatest singular value as a share of their sum, states not "
    "centred, which also grows if a class only shrinks towards its mean. Arrows: the paper's claim."
)
SMOKE = (
    "A SMOKE TEST: it only tests that everything works. Its numbers mean nothing, so standard "
    "deviations and intervals are left out."
)
_WIDE = 80
_MOST_ACROSS = 4  # methods that fit beside each other on a page


class Cell(NamedTuple):
    """A mean with its standard deviation, and a difference; either may be missing."""

    value: str = ""
    difference: str = ""
    verdict: Verdict = "unclear"


def terminal_table(rows: Sequence[Row], *, title: str, width: int = _WIDE) -> Table:
    """Return rows as a terminal table, with methods across, or below each other if it is narrow.

    A difference is green if its interval is on the better side of zero, red on the worse side.

    Args:
        rows: the result of `summarise`.
        title: the title of the table.
        width: columns of the terminal.
    """
    table = Table(
        title=title, title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    corner, *methods = _header(rows)
    across = _across(rows) <= width
    table.add_column(corner)
    for text in methods if across else [""]:
        table.add_column(text, justify="right", no_wrap=across)
    for section, lines in _sections(rows):
        table.add_row(f"[bold]{section}[/]")
        for label, cells in lines:
            if across:
                table.add_row(label, *map(_styled, cells))
                continue
            table.add_row(label)
            for method, cell in zip(methods, cells, strict=True):
                table.add_row(f"  {method}", _styled(cell))
        table.add_section()
    return table


def _across(rows: Sequence[Row]) -> int:
    """Return the width of a table with the methods across."""
    lines = [(label, cells) for _, section in _sections(rows) for label, cells in section]
    labels = max(len(label) for label, _ in lines)
    columns = zip(*(cells for _, cells in lines), strict=True)
    names = _header(rows)[1:]
    return (
        labels
        + 1
        + sum(
            1 + max(len(text) for cell in column for text in (name, cell.value, cell.difference))
            for name, column in zip(names, columns, strict=True)
        )
    )


def _styled(cell: Cell) -> str:
    style = {"better": "[green]{}[/]", "worse": "[red]{}[/]", "unclear": "{}"}[cell.verdict]
    return f"{cell.value}\n{style.format(escape(cell.difference))}".strip()


def markdown_table(rows: Sequence[Row], *, title: str, caption: str, smoke: bool = False) -> str:
    """Return rows as Markdown; a difference is bold if its interval excludes zero.

    More than four methods stand below each other, in a table for each section.
    """
    legend = SMOKE if smoke else f"{legend_of(rows)} Bold: the interval excludes zero."
    few = len(_header(rows)) - 1 <= _MOST_ACROSS
    lines = _one_table(rows) if few else _tables(rows)
    return "\n".join([f"**{title}**", "", *lines, "", f"{legend} {caption}", ""])


def _one_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table with the methods across."""
    header = _header(rows)
    yield from _head(header)
    for section, parts in _sections(rows):
        yield f"| *{section}* |{' |' * (len(header) - 1)}"
        for label, cells in parts:
            yield f"| {label} | {' | '.join(_markdown(cell) for cell in cells)} |"


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a table for each section, with the methods down."""
    seeds, *methods = _header(rows)
    for number, (section, parts) in enumerate(_sections(rows)):
        labels, columns = zip(*parts, strict=True)
        yield from [""] if number else []
        yield from _head([f"{seeds}, *{section}*", *labels])
        for method, cells in zip(methods, zip(*columns, strict=True), strict=True):
            if any(
                cell.value or cell.difference for cell in cells
            ):  # manifold mixup has none to itself
                yield f"| {method} | {' | '.join(_markdown(cell) for cell in cells)} |"


def _head(header: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(header)} |", f"|---|{'---:|' * (len(header) - 1)}"]


def legend_of(rows: Sequence[Row]) -> str:
    """Return what the numbers of a table are."""
    return LEGEND if any(row.when == "best" for row in rows) else LAST_EPOCH


def _markdown(cell: Cell) -> str:
    if not cell.difference:
        return cell.value
    mark = "" if cell.verdict == "unclear" else "**"
    value = f"{cell.value}<br>" if cell.value else ""
    return f"{value}{mark}{cell.difference}{mark}"


def _header(rows: Sequence[Row]) -> list[str]:
    n = rows[0].spread["seconds"].n
    methods = dict.fromkeys(row.method for row in rows)
    return [f"{n} seed{'' if n == 1 else 's'}", *methods]


def _sections(rows: Sequence[Row]) -> list[tuple[str, list[tuple[str, list[Cell]]]]]:
    """Return the sections of the table: lines of a label and a cell per method."""
    kinds = [("", _cell)]
    if any(_gap(row.to_manifold, SECONDS) for row in rows):
        kinds.append((f", difference to {MANIFOLD}", _to_manifold))
    return [
        (
            f"{name}{suffix}",
            [
                (_label(measure), [cell(row, measure) for row in rows if row.when == when])
                for measure in measures
            ],
        )
        for when in SECTIONS
        if any(row.when == when for row in rows)
        for name, measures in _parts(rows, when)
        for suffix, cell in kinds
    ]


def _parts(rows: Sequence[Row], when: When) -> Iterator[tuple[str, list[Measure]]]:
    """Yield the measures of an epoch, then those of the states of each layer."""
    measures = measures_of(next(row for row in rows if row.when == when))
    if when == "best":  # seconds are those of the whole run
        measures = tuple(measure for measure in measures if measure.key != "seconds")
    for layer in dict.fromkeys(measure.layer for measure in measures):
        name = f"flatness at {layer}" if layer else SECTIONS[when]
        yield name, [measure for measure in measures if measure.layer == layer]


def _label(measure: Measure) -> str:
    return f"{measure.title} {ARROW[measure.better]}"


def _cell(row: Row, measure: Measure) -> Cell:
    value = spread_text(row.spread[measure.key], measure.digits)
    gap = _gap(row.difference, measure)
    if gap is None:
        return Cell(value)
    return Cell(value, difference_text(gap, measure.digits), measure.verdict(gap))


def _to_manifold(row: Row, measure: Measure) -> Cell:
    gap = _gap(row.to_manifold, measure)
    if gap is None:
        return Cell()
    return Cell("", difference_text(gap, measure.digits), measure.verdict(gap))


def _gap(differences: Mapping[str, Difference] | None, measure: Measure) -> Difference | None:
    """Return a difference that has an interval, or None."""
    gap = None if differences is None else differences.get(measure.key)
    return None if gap is None or gap.n == 1 or math.isnan(gap.mean) else gap


def spread_text(value: Spread, digits: int) -> str:
    """Return a mean and, for several seeds, its standard deviation."""
    if math.isnan(value.mean):
        return "–"
    mean = f"{value.mean:.{digits}f}"
    return mean if math.isnan(value.std) else f"{mean} ± {value.std:.{digits}f}"


def difference_text(gap: Difference, digits: int) -> str:
    """Return a mean difference and, for several pairs, its interval, if that has a width."""
    alone = f"{gap.mean:+.{digits}f}".replace("-", "−")
    if gap.n == 1:
        return alone
    if math.isnan(gap.low) and math.isfinite(gap.mean):
        return f"{alone} [all seeds alike]"
    mean, low, high = (
        f"{number:+.{digits}f}".replace("-", "−") for number in (gap.mean, gap.low, gap.high)
    )
    return f"{mean} [{low}, {high}]"
