"""The rows of a report: a label for each recipe, and the recipe that it is compared with."""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from manifold_mixup.lab import paper
from manifold_mixup.lab.evaluate.measures import BRIER, ECE, ERROR, FGSM, NLL
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.recipe import WAY, Recipe

COLUMNS = (
    ERROR,
    NLL,
    ECE,
    BRIER,
    dataclasses.replace(FGSM, title="accuracy % under FGSM"),
)


def sort_key(run: Recipe) -> tuple[Any, ...]:
    """Return a sort key: by model, and recipes without mixing first."""
    kind = ("no mixup", "input mixup", "manifold mixup")
    known = next((k for k, name in enumerate(kind) if run.method.startswith(name)), len(kind))
    return run.model, len(run.layers) > 0, known, run.method, repr(run)


def table(recipes: Sequence[Recipe]) -> Table:
    """Return a table with a row for each recipe, compared with one without mixing."""
    labels, rows = dict(zip(recipes, _labels(recipes), strict=True)), []
    for run in recipes:
        unmixed = [other for other in recipes if other.model == run.model and not other.layers]
        base = min(unmixed, key=partial(_count_differences, run), default=run)
        rows.append(
            Row(
                label=labels[run],
                run=run,
                paper=paper_numbers(run),
                base="" if base == run else labels[base],
                group=run.model,
            )
        )
    return Table("report", "", COLUMNS, tuple(rows))


def _count_differences(run: Recipe, other: Recipe) -> int:
    """Count the settings, other than the mixing, in which two recipes differ."""
    mixing = dict.fromkeys(("method", "layers", "alpha", "per_sample", "block_gradient", *WAY))
    first, second = (dataclasses.asdict(recipe) | mixing for recipe in (run, other))
    return sum(first[name] != second[name] for name in first)


def _labels(recipes: Sequence[Recipe]) -> Iterator[str]:
    """Yield labels of recipes: model, method and, if these are not unique, the other settings."""
    for run in recipes:
        same = [
            other for other in recipes if (other.model, other.method) == (run.model, run.method)
        ]
        fields = [field.name for field in dataclasses.fields(run)]
        differ = [name for name in fields if len({getattr(other, name) for other in same}) > 1]
        settings = ", ".join(f"{name} {_text(getattr(run, name))}" for name in differ)
        yield f"{run.model}, {run.method}{f' ({settings})' if settings else ''}"


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def paper_numbers(run: Recipe) -> dict[str, tuple[float, ...]]:
    """Return the paper's error and NLL for the data set, model and method, if it has them."""
    for name in ("table-1a", "table-1b", "table-2", "table-3", "preact50", "gradient-block"):
        for row in paper.table(name).rows:
            recipe = row.run
            if recipe and (recipe.data, recipe.model, recipe.method) == (
                run.data,
                run.model,
                run.method,
            ):
                return {key: row.paper[key] for key in ("error", "nll") if key in row.paper}
    return {}
