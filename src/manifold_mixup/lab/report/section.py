"""What a section of the report is made of."""

import base64
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
"""Rows of an evaluation: by their name, by method, one for every seed."""

Value = Callable[[dict[str, Any]], float]


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


def by_method(caption: str, labels: Sequence[str], found: ByName, value: Value) -> Grid:
    """Make a table with a row a label and a column a method; what there is not, leave empty.

    Args:
        caption: what the numbers are.
        labels: of the rows, as many as names.
        found: what was evaluated.
        value: takes the number out of what was evaluated.
    """
    methods = list(dict.fromkeys(name for of in found.values() for name in of))
    rows = []
    for label, of in zip(labels, found.values(), strict=True):
        values = ([value(one) for one in of.get(name, ())] for name in methods)
        rows.append((label, [number(some) for some in values]))
    return Grid(caption, methods, rows)


def number(values: Sequence[float], digits: int = 1) -> Number:
    """Say the mean and deviation over seeds; of no seeds, nothing."""
    return Number(spread_text(spread(values), digits) if values else "")


def evaluated(methods: Methods, part: str, *, key: str = "name") -> ByName:
    """Return what `evaluate` found in a part: by the name of the row, by method, for every seed.

    Runs that were evaluated with other settings lack some rows and have others.
    """
    found: ByName = {}
    for method, items in methods.items():
        for item in items:
            for row in item.evaluation.get(part, ()):
                found.setdefault(row[key], {}).setdefault(method, []).append(row)
    return found


def tested(methods: Methods, part: str) -> str:
    """Say how many test examples a part of the evaluations looked at."""
    counts = {one.examples[part] for of in methods.values() for one in of if part in one.examples}
    low, high = min(counts), max(counts)
    return f"Test examples: {low:,}." if low == high else f"Test examples: {low:,} to {high:,}."


def embedded(drawn: Picture) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/svg+xml;base64,{base64.b64encode(drawn.svg).decode()}"
