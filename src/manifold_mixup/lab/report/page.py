"""One HTML page of a set of runs, with everything in it: no other file, no network."""

import base64
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab import provenance
from manifold_mixup.lab.evaluate.statistics import spread
from manifold_mixup.lab.evaluations import When
from manifold_mixup.lab.paper.numbers import Cell, Line, better, lines
from manifold_mixup.lab.paper.tables import Column, Row
from manifold_mixup.lab.pictures import plane_view
from manifold_mixup.lab.recipes import Run
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.gather import COLUMNS, Gathered, Item
from manifold_mixup.lab.report.table import ARROW, difference_text, spread_text

_FIRST_LINES = 12  # of a table of epochs: more are thinned out


@dataclass(frozen=True)
class Number:
    """A cell of a table: what it says, below it the difference, and whether that is clear."""

    text: str
    below: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: a header, and rows that begin with what they are about."""

    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Number]]]


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, words, tables, or pictures with their numbers.

    Pictures are an address that holds one, and what it shows in words.
    """

    name: str
    title: str
    words: str = ""
    pictures: Sequence[tuple[str, str]] = ()
    numbers: Sequence[Grid] = ()
    tables: Sequence[Grid] = ()


def page(gathered: Gathered, *, title: str) -> str:
    """Render the report of some runs as HTML; names and data are shown, whatever is in them."""
    made = lines(gathered.table, gathered.found)
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
        sections=list(_sections(gathered, made)),
        recipes=[_recipe(gathered, row) for row in gathered.table.rows],
        unfinished=[path.name for path in gathered.unfinished],
        version=provenance.describe()["versions"]["manifold-mixup"],
    )


def _facts(gathered: Gathered) -> dict[str, str]:
    runs = [item.result.run for item in gathered.items]
    machines = dict.fromkeys(_machine(item) for item in gathered.items)
    hours = sum(item.result.seconds for item in gathered.items) / 3600
    return {
        "data": runs[0].data,
        "models": ", ".join(dict.fromkeys(run.model for run in runs)),
        "runs": str(len(runs)),
        "seeds": ", ".join(map(str, sorted({run.seed for run in runs}))),
        "hours of training": f"{hours:.2f}",
        "machine": "; ".join(machines),
    }


def _machine(item: Item) -> str:
    machine, versions = item.origin["machine"] or {}, item.origin["versions"] or {}
    return f"{machine.get('cpu', 'unknown')}, PyTorch {versions.get('torch', 'unknown')}"


def _sections(gathered: Gathered, made: Sequence[Line]) -> Iterator[Section]:
    yield Section(
        "comparison",
        "Comparison",
        "Mean ± standard deviation over the seeds. Below it, the paired difference to the row "
        "without mixing of the same model, over the seeds that both have, with the 95 % interval "
        "of Student's t: bold where the interval excludes zero. The best epoch was picked on the "
        "test set, which is optimistic; the paper reports it, after trainings of its own length.",
        tables=[_comparison(gathered, made, "last"), _comparison(gathered, made, "best")],
    )
    methods = {_name(gathered, row): gathered.of(row) for row in gathered.table.rows}
    for part in (_curves, _reliability, _strength, _deformations, _spectra, _boundaries):
        if (section := part(methods)) is not None:
            yield section


def _name(gathered: Gathered, row: Row) -> str:
    """Leave out the model where there is only one."""
    return row.name if len({one.group for one in gathered.table.rows}) == 1 else row.label


def _comparison(gathered: Gathered, made: Sequence[Line], when: When) -> Grid:
    known = [key for key in ("error", "nll") if any(key in line.row.paper for line in made)]
    by_key = {column.key: column for column in COLUMNS}
    header = [f"{column.title} {ARROW[column.better]}" for column in COLUMNS]
    header += ["n", *(f"the paper's {by_key[key].title}" for key in known)]
    rows = []
    for line in made:
        cells = [_number(line.cells[when][column.key], column) for column in COLUMNS]
        cells += [Number(str(line.n)), *(_paper(line.row, by_key[key]) for key in known)]
        rows.append((_name(gathered, line.row), cells))
    return Grid(f"{when.capitalize()} epoch", header, rows)


def _number(cell: Cell, column: Column) -> Number:
    if cell.spread is None:
        return Number("")
    text, gap = spread_text(cell.spread, column.digits), cell.difference
    if gap is None:
        return Number(text)
    verdict = {True: "better", False: "worse", None: ""}[better(column, gap)]
    return Number(text, difference_text(gap, column.digits), verdict)


def _paper(row: Row, column: Column) -> Number:
    mean, *std = row.paper.get(column.key, ()) or (None,)
    if mean is None:
        return Number("")
    return Number(" ± ".join([f"{mean:.{column.digits}f}", *map(str, std)]))


Methods = Mapping[str, Sequence[Item]]


def _curves(methods: Methods) -> Section:
    results = {name: [item.result for item in items] for name, items in methods.items()}
    grids = [
        _curve_grid(results, "Test error, %", lambda epoch: epoch.error, 2),
        _curve_grid(results, "Test NLL, nats", lambda epoch: epoch.nll, 3),
    ]
    return Section(
        "training",
        "Training",
        "Mean over the seeds, and a band of one standard deviation on each side.",
        pictures=[
            (_embedded(plots.curve_picture(results, what)), f"{title} of every method by epoch.")
            for what, (title, _) in plots.CURVES.items()
        ],
        numbers=grids,
    )


def _curve_grid(
    results: Mapping[str, Sequence[Any]], caption: str, value: Callable[[Any], float], digits: int
) -> Grid:
    longest = max(len(one.curve) for of in results.values() for one in of)
    step = max(1, longest // _FIRST_LINES)
    epochs = [*range(step, longest, step), longest]
    rows = []
    for epoch in epochs:
        cells = []
        for of in results.values():
            values = [value(one.curve[epoch - 1]) for one in of if len(one.curve) >= epoch]
            cells.append(Number(spread_text(spread(values), digits) if values else ""))
        rows.append((f"epoch {epoch}", cells))
    return Grid(caption, list(results), rows)


def _reliability(methods: Methods) -> Section:
    bins = {name: [item.result.last.reliability for item in of] for name, of in methods.items()}
    ece = [
        (name, [Number(spread_text(spread([item.result.last.ece for item in of]), 2))])
        for name, of in methods.items()
    ]
    rows = []
    count_of_bins = len(next(iter(bins.values()))[0].count)
    for k in range(count_of_bins):
        cells = []
        for of in bins.values():
            count = sum(one.count[k] for one in of)
            right = sum(one.count[k] * one.accuracy[k] for one in of)
            cells.append(Number(f"{100 * right / count:.1f} % of {count:,}" if count else "none"))
        rows.append((f"confidence {k / count_of_bins:.2f} to {(k + 1) / count_of_bins:.2f}", cells))
    return Section(
        "reliability",
        "Reliability",
        "How often a prediction of a given confidence is right, at the last epoch, seeds pooled. "
        "On the diagonal the two are equal; below it the model is too sure of itself.",
        pictures=[
            (
                _embedded(plots.reliability_picture(bins, title="")),
                "Reliability diagram: accuracy against confidence for every method.",
            )
        ],
        numbers=[
            Grid("Expected calibration error, %", ["ECE"], ece),
            Grid("Right predictions in each bin", list(bins), rows),
        ],
    )


def _strength(methods: Methods) -> Section | None:
    found = _evaluated(methods, "strength")
    if not found:
        return None
    rows_of = {name: [rows[0] for rows in seeds] for name, seeds in found.items()}
    first = next(iter(rows_of.values()))[0]
    risk = {
        name: [[100 - accuracy for accuracy in row["accuracy"]] for row in rows]
        for name, rows in rows_of.items()
    }
    labels = [f"ε = {eps:.4g}" for eps in first["eps"]]
    return Section(
        "strength",
        "Risk at rising strength of FGSM",
        f"Error in percent under one step of the fast gradient sign method; ε in {first['space']}.",
        pictures=[
            (
                _embedded(plots.strength_picture(rows_of, title="")),
                "Error under FGSM against its strength for every method.",
            )
        ],
        numbers=[_by_method("Error under FGSM, %", labels, risk)],
    )


def _deformations(methods: Methods) -> Section | None:
    found = _evaluated(methods, "deformations")
    if not found:
        return None
    names = [row["name"] for row in next(iter(found.values()))[0]]
    accuracy = {
        method: [[row["accuracy"] for row in rows] for rows in seeds]
        for method, seeds in found.items()
    }
    return Section(
        "deformations",
        "Deformed images",
        "Accuracy on the deformed test set (the paper's Tables 4 and 9).",
        pictures=[
            (
                _embedded(plots.deformations_picture(found, title="")),
                "Accuracy on deformed images for every method.",
            )
        ],
        numbers=[_by_method("Accuracy, %", names, accuracy)],
    )


def _by_method(
    caption: str, labels: Sequence[str], methods: Mapping[str, Sequence[Sequence[float]]]
) -> Grid:
    """Make a table with a row a label; each method has a list of as many numbers for each seed."""
    rows = []
    for k, label in enumerate(labels):
        values = ([of_seed[k] for of_seed in seeds] for seeds in methods.values())
        rows.append((label, [Number(spread_text(spread(of), 1)) for of in values]))
    return Grid(caption, list(methods), rows)


def _spectra(methods: Methods) -> Section | None:
    found = _evaluated(methods, "spectra")
    if not found:
        return None
    layers = [row["name"] for row in next(iter(found.values()))[0]]
    drawn: dict[str, dict[str, list[Any]]] = {layer: {} for layer in layers}
    grids = []
    for k, layer in enumerate(layers):
        rows = []
        for name, seeds in found.items():
            at = [of[k] for of in seeds]
            drawn[layer][name] = [
                {kind: one[kind]["values"] for kind in ("centred", "uncentred")} for one in at
            ]
            cells = [
                [one["uncentred"]["s1"] for one in at],
                [one["uncentred"]["rest"] for one in at],
                [one["within"] for one in at],
                [one["centred"]["outside"] for one in at],
            ]
            rows.append((name, [Number(spread_text(spread(values), 2)) for values in cells]))
        header = [
            "s₁, not centred",
            "sum of the others",
            "% of the variance within classes",
            "% of that outside its first direction",
        ]
        grids.append(Grid(layer, header, rows))
    return Section(
        "spectra",
        "Spectra of hidden states",
        "Singular values of the states of a class, mean over the classes; centred: the mean of the "
        "class taken off.",
        pictures=[
            (
                _embedded(plots.spectra_picture(drawn, title="")),
                "Singular values of the states of a class, layer by layer, for every method.",
            )
        ],
        numbers=grids,
    )


def _boundaries(methods: Methods) -> Section | None:
    """Draw the classifiers of points in the plane that have a bottleneck of two units."""
    items = {name: of[0] for name, of in methods.items()}
    if {item.result.run.data for item in items.values()} != {"spirals"}:
        return None
    data = datasets.load("spirals", root=Path())
    views = {name: plane_view(item.folder, data, "bottleneck") for name, item in items.items()}
    rows = [(name, [Number(f"{view.inputs.confident:.1f}")]) for name, view in views.items()]
    return Section(
        "boundaries",
        "Decision boundaries",
        "The first seed of each method. Above the plane, below the hidden states: the line is "
        "where both classes are equally likely, the dots are the states of inputs spread evenly.",
        pictures=[
            (
                _embedded(plots.plane_picture(views, title="")),
                "Decision boundary of every method in input space and in hidden space.",
            )
        ],
        numbers=[Grid("Confidence above 0.95", ["% of the plane"], rows)],
    )


def _evaluated(methods: Methods, part: str) -> dict[str, list[Any]]:
    """Return what `evaluate` found, of the methods where it did."""
    found = {
        name: [item.evaluation[part] for item in items if part in item.evaluation]
        for name, items in methods.items()
    }
    return {name: seeds for name, seeds in found.items() if seeds}


def _recipe(gathered: Gathered, row: Row) -> dict[str, Any]:
    """Say what a row was trained by, and how to do it again."""
    items = gathered.of(row)
    run = items[0].result.run
    commits = dict.fromkeys(str(item.origin["git"] or "unknown") for item in items)
    return {
        "label": row.label,
        "fields": {
            name: " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in dataclasses.asdict(run).items()
            if name != "seed"
        },
        "seeds": ", ".join(str(item.result.run.seed) for item in items),
        "commit": ", ".join(commits),
        "command": command(run),
    }


def command(run: Run) -> str:
    """Write the command that trains a run."""
    words = ["manifold-mixup", "train", "--recipe", "compare", "--mixing", "none"]
    for part in dataclasses.fields(run):
        value, dashed = getattr(run, part.name), part.name.replace("_", "-")
        if isinstance(part.default, bool):  # a flag, and not one of three values
            words.append(f"--{dashed}" if value else f"--no-{dashed}")
        elif isinstance(value, tuple):
            words += [f"--{dashed}", *map(str, value)]
        else:
            words += [f"--{dashed}", str(value)]
    return shlex.join(words)


def _embedded(drawn: plots.Picture) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.svg).decode()}"
