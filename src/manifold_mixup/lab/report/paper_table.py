"""A table of the paper as Markdown, with the paper's numbers beside ours."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.paper.numbers import Cell, Line
from manifold_mixup.lab.paper.tables import Table
from manifold_mixup.lab.report.table import ARROW, difference_text, spread_text
from manifold_mixup.lab.runs.evaluation import When

LEGEND = (
    "Ours: mean ± standard deviation over n seeds. Difference: to the row without mixing above, "
    "paired over the seeds, with the 95 % interval of Student's t; bold if it excludes zero. The "
    "paper reports the best epoch on the test set, which is optimistic; our result is the last."
)


def paper_table(table: Table, lines: Sequence[Line]) -> str:
    """Return a table as Markdown: by column, or by epoch if there are more columns than rows."""
    parts = _by_epoch(table, lines) if len(table.columns) > len(lines) else _by_column(table, lines)
    return "\n".join([*parts, LEGEND, *([f"\n{table.note}"] if table.note else [])]) + "\n"


def _by_column(table: Table, lines: Sequence[Line]) -> Iterator[str]:
    """Yield a table for each column and group of rows, narrow enough for small screens."""
    for column in table.columns:
        for group, group_lines in groupby(lines, key=lambda line: line.row.group):
            yield f"**{', '.join(part for part in (group, _title(column)) if part)}**\n"
            yield "| | paper | ours, last epoch | difference | ours, best epoch | difference | n |"
            yield "|---|---:|---:|---:|---:|---:|---:|"
            for line in group_lines:
                if line.row.run or column.key in line.row.paper:
                    yield _row(line, column)
            yield ""


def _row(line: Line, column: Measure) -> str:
    last, best = line.cells["last"][column.key], line.cells["best"][column.key]
    cells = (
        line.row.name,
        _paper(line, column),
        _ours(last, column),
        _gap(last, column),
        _ours(best, column),
        _gap(best, column),
        str(last.spread.n if last.spread else 0) if line.row.run else "",
    )
    return f"| {' | '.join(cells)} |"


def _by_epoch(table: Table, lines: Sequence[Line]) -> Iterator[str]:
    """Yield one transposed table for each epoch: our numbers, differences, the paper's numbers."""
    epochs: tuple[When, When] = ("last", "best")
    note = "; the paper's numbers in brackets" if any(line.row.paper for line in lines) else ""
    for when in epochs:
        yield f"**{when} epoch**{note}\n"
        names = (f"{line.row.label} (n = {line.n})" for line in lines)
        yield f"| | {' | '.join(names)} |"
        yield f"|---|{'---:|' * len(lines)}"
        for column in table.columns:
            cells = (_all_numbers(line, column, when) for line in lines)
            yield f"| {_title(column)} | {' | '.join(cells)} |"
        yield ""


def _all_numbers(line: Line, column: Measure, when: When) -> str:
    cell, paper = line.cells[when][column.key], _paper(line, column)
    parts = (_ours(cell, column), _gap(cell, column), f"({paper})" if paper else "")
    return "<br>".join(part for part in parts if part)


def _title(column: Measure) -> str:
    return f"{column.title} {ARROW[column.better]}"


def _paper(line: Line, column: Measure) -> str:
    mean, *std = line.row.paper.get(column.key, ()) or (None,)
    return "" if mean is None else " ± ".join([f"{mean:.{column.digits}f}", *map(str, std)])


def _ours(cell: Cell, column: Measure) -> str:
    return "" if cell.spread is None else spread_text(cell.spread, column.digits)


def _gap(cell: Cell, column: Measure) -> str:
    if cell.difference is None:
        return ""
    text = difference_text(cell.difference, column.digits)
    return text if column.verdict(cell.difference) == "unclear" else f"**{text}**"
