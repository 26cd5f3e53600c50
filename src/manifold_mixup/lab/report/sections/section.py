"""The parts of a section of the report."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manifold_mixup.lab.evaluate.statistics import spread
from manifold_mixup.lab.report.gather import Item
from manifold_mixup.lab.report.plots import Picture
from manifold_mixup.lab.report.table import spread_text

Methods = Mapping[str, Sequence[Item]]
"""The runs of each method, by its name."""

ByName = dict[str, dict[str, list[dict[str, Any]]]]
"""Rows of evaluations: by row name and by method, one for every seed."""

Value = Callable[[dict[str, Any]], float]


@dataclass(frozen=True)
class Number:
    """A cell of a table: its text, the difference below it, and the verdict on the difference."""

    text: str
    below: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Grid:
    """A table: a caption, a header, and labelled rows."""

    caption: str
    header: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Number]]]


@dataclass(frozen=True)
class Section:
    """A section of the page: a heading, text, tables, and pictures with their numbers.

    A picture is a data URL and its alternative text. Further tables are folded away, under a line
    that says what they are about.
    """

    name: str
    title: str
    words: str = ""
    pictures: Sequence[tuple[str, str]] = ()
    numbers: Sequence[Grid] = ()
    tables: Sequence[Grid] = ()
    further: Sequence[Grid] = ()
    about_further: str = ""


def by_method(
    caption: str, labels: Sequence[str], evaluations: ByName, value: Value, digits: int = 1
) -> Grid:
    """Return a table with a row per label and a column per method; missing values are empty.

    Args:
        caption: the caption.
        labels: the labels of the rows, one for each name in ``evaluations``.
        evaluations: the rows of the evaluations.
        value: returns the number of a row.
        digits: the number of decimals.
    """
    methods = list(dict.fromkeys(name for by_name in evaluations.values() for name in by_name))
    rows = []
    for label, by_name in zip(labels, evaluations.values(), strict=True):
        values = ([value(row) for row in by_name.get(name, ())] for name in methods)
        rows.append((label, [number(seed_values, digits) for seed_values in values]))
    return Grid(caption, methods, rows)


def number(values: Sequence[float | None], digits: int = 1) -> Number:
    """Return a cell with the mean and standard deviation over seeds, empty without seeds.

    It has a dash if a value is ``None``, as NaN is stored.
    """
    known = [math.nan if value is None else value for value in values]
    return Number(spread_text(spread(known), digits) if known else "")


def evaluated(methods: Methods, part: str, *, key: str = "name") -> ByName:
    """Return the rows of a part of the evaluations, by row name and method, for every seed.

    Runs that were evaluated with other settings may have other rows.
    """
    evaluations: ByName = {}
    for method, items in methods.items():
        for item in items:
            for row in item.evaluation.get(part, ()):
                evaluations.setdefault(row[key], {}).setdefault(method, []).append(row)
    return evaluations


def tested(methods: Methods, part: str) -> str:
    """Return a sentence with the number of test examples in a part of the evaluations."""
    counts = {
        item.examples[part] for items in methods.values() for item in items if part in item.examples
    }
    low, high = min(counts), max(counts)
    return f"Test examples: {low:,}." if low == high else f"Test examples: {low:,} to {high:,}."


def notes(evaluations: ByName) -> str:
    """Return what the rows say about numbers that could not be computed, by method."""
    texts = dict.fromkeys(
        f" {method}: {row['note']}"
        for by_name in evaluations.values()
        for method, rows in by_name.items()
        for row in rows
        if "note" in row
    )
    return "".join(texts)


def embedded(picture: Picture) -> str:
    """Return a picture as a data URL."""
    return f"data:image/svg+xml;base64,{base64.b64encode(picture.svg).decode()}"
