"""A self-contained HTML page about a set of runs."""

import dataclasses
import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.evaluate.statistics import smallest_seen
from manifold_mixup.lab.paper.numbers import Cell, Line, lines
from manifold_mixup.lab.paper.tables import Row
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.gather import Gathered, Item
from manifold_mixup.lab.report.rows import COLUMNS
from manifold_mixup.lab.report.sections.boundaries import boundaries
from manifold_mixup.lab.report.sections.order import SECTIONS
from manifold_mixup.lab.report.sections.section import Grid, Number, Section, number
from manifold_mixup.lab.report.table import ARROW, difference_text, spread_text
from manifold_mixup.lab.report.unmoved import unmoved
from manifold_mixup.lab.runs import provenance
from manifold_mixup.lab.runs.evaluation import When


def page(gathered: Gathered, *, title: str) -> str:
    """Return the report of some runs as HTML; names and data are escaped."""
    table_lines = lines(gathered.table, gathered.runs)
    environment = Environment(
        loader=PackageLoader("manifold_mixup.lab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    return template.render(
        title=title,
        facts=_facts(gathered),
        sections=list(_sections(gathered, table_lines)),
        recipes=[_recipe(gathered, row) for row in gathered.table.rows],
        unfinished=[path.name for path in gathered.unfinished],
        outdated=sorted({part for item in gathered.items for part in item.outdated}),
        version=provenance.describe()["versions"]["manifold-mixup"],
    )


def _facts(gathered: Gathered) -> dict[str, str]:
    runs = [item.result.run for item in gathered.items]
    machines = dict.fromkeys(_machine(item) for item in gathered.items)
    hours = sum(item.result.seconds for item in gathered.items) / 3600
    return {
        "data": gathered.items[0].row.data,
        "models": ", ".join(dict.fromkeys(run.model for run in runs)),
        "runs": str(len(runs)),
        "seeds": ", ".join(map(str, sorted({run.seed for run in runs}))),
        "hours of training": f"{hours:.2f}",
        "machine": "; ".join(machines),
    }


def _machine(item: Item) -> str:
    machine, versions = item.origin["machine"] or {}, item.origin["versions"] or {}
    return f"{machine.get('cpu', 'unknown')}, PyTorch {versions.get('torch', 'unknown')}"


_POWER = (
    " Below, the power of so many seeds: four of five such reports would show a true difference "
    "of that size, and most would miss half of it (paired t test, α 5 %, power 80 %, at the "
    "deviations observed here)."
)


def _sections(gathered: Gathered, table_lines: Sequence[Line]) -> Iterator[Section]:
    power = _power(gathered, table_lines)
    methods = {_name(gathered, row): gathered.of(row) for row in gathered.table.rows}
    still = unmoved({name: [item.result.last for item in items] for name, items in methods.items()})
    yield Section(
        "comparison",
        "Comparison",
        "Mean ± standard deviation over the seeds. Below it, the paired difference to the row "
        "without mixing for the same model, over their common seeds, with the 95 % interval "
        "of Student's t; it is bold if the interval excludes zero. The best epoch is selected on "
        "the test set, which is optimistic. The paper reports its best epoch, after trainings of "
        f"another length.{f' {still}' if still else ''}{_POWER if power.rows else ''}",
        tables=[
            _comparison(gathered, table_lines, "last"),
            _comparison(gathered, table_lines, "best"),
            *([power] if power.rows else []),
        ],
    )
    for make in SECTIONS:
        if (section := make(methods)) is not None:
            yield section
    beside = {item.result.run.method: [item] for item in gathered.spirals}
    if beside and (section := boundaries(beside)) is not None:
        yield section


def _name(gathered: Gathered, row: Row) -> str:
    """Return the label of a row, without the model if all rows have the same."""
    return row.name if len({other.group for other in gathered.table.rows}) == 1 else row.label


def _comparison(gathered: Gathered, table_lines: Sequence[Line], when: When) -> Grid:
    reported = [
        key for key in ("error", "nll") if any(key in line.row.paper for line in table_lines)
    ]
    by_key = {column.key: column for column in COLUMNS}
    header = [f"{column.title} {ARROW[column.better]}" for column in COLUMNS]
    header += ["n", *(f"the paper's {by_key[key].title}" for key in reported)]
    rows = []
    for line in table_lines:
        cells = [_number(line.cells[when][column.key], column) for column in COLUMNS]
        cells += [Number(str(line.n)), *(_paper(line.row, by_key[key]) for key in reported)]
        rows.append((_name(gathered, line.row), cells))
    return Grid(f"{when.capitalize()} epoch", header, rows)


def _power(gathered: Gathered, table_lines: Sequence[Line]) -> Grid:
    """Return the smallest differences that the seeds can find, of rows with two or more of them."""
    rows = []
    for line in table_lines:
        differences = [line.cells["last"][column.key].difference for column in COLUMNS]
        smallest = [math.nan if gap is None else smallest_seen(gap) for gap in differences]
        if line.row.base and not all(map(math.isnan, smallest)):
            cells = [
                number([value], column.digits)
                for value, column in zip(smallest, COLUMNS, strict=True)
            ]
            rows.append((_name(gathered, line.row), cells))
    caption = "Smallest difference to the row without mixing that so many seeds find, last epoch"
    return Grid(caption, [column.title for column in COLUMNS], rows)


def _number(cell: Cell, column: Measure) -> Number:
    if cell.spread is None:
        return Number("")
    text, difference = spread_text(cell.spread, column.digits), cell.difference
    if difference is None:
        return Number(text)
    verdict = column.verdict(difference)
    below = difference_text(difference, column.digits)
    return Number(text, below, "" if verdict == "unclear" else verdict)


def _paper(row: Row, column: Measure) -> Number:
    mean, *std = row.paper.get(column.key, ()) or (None,)
    if mean is None:
        return Number("")
    return Number(" ± ".join([f"{mean:.{column.digits}f}", *map(str, std)]))


def _recipe(gathered: Gathered, row: Row) -> dict[str, Any]:
    """Return the settings of a row and the command that repeats it."""
    items = gathered.of(row)
    run = items[0].result.run
    commits = dict.fromkeys(str(item.origin["git"] or "unknown") for item in items)
    return {
        "label": row.label,
        "fields": {
            name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in dataclasses.asdict(row.run or run).items()
            if name != "seed"
        },
        "seeds": ", ".join(str(item.result.run.seed) for item in items),
        "commit": ", ".join(commits),
        "command": command(run),
    }


def command(run: Recipe) -> str:
    """Return the command that trains a run."""
    words = ["manifold-mixup", "train", "--recipe", "compare", "--mixing", "none"]
    for part in dataclasses.fields(run):
        value, dashed = getattr(run, part.name), part.name.replace("_", "-")
        if isinstance(part.default, bool):  # a flag; `bool | None` takes a value instead
            words.append(f"--{dashed}" if value else f"--no-{dashed}")
        elif isinstance(value, tuple):
            words += [f"--{dashed}", *map(str, value)]
        else:
            words += [f"--{dashed}", str(value)]
    return shlex.join(words)
