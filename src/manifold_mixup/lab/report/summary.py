"""Summary rows of a comparison: each method's spread over seeds, and its paired differences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from manifold_mixup.lab.evaluate.measures import (
    CONFIDENCE,
    ECE,
    ERROR,
    FGSM,
    NLL,
    R2,
    RMSE,
    SECONDS,
    Measure,
    layers_among,
    of_states,
)
from manifold_mixup.lab.evaluate.statistics import Difference, Spread, paired_difference, spread
from manifold_mixup.lab.runs.result import Result

When = Literal["last", "best"]


MANIFOLD = "manifold mixup"
MEASURES = (ERROR, NLL, ECE, FGSM, SECONDS)
OF_NUMBERS = (RMSE, R2, SECONDS)


def measures_of(row: "Row") -> tuple[Measure, ...]:
    """Return the measures that a row has: those of a classifier, or those of a regression.

    Those of the states of layers come last.
    """
    of_layers = [measure for layer in layers_among(row.spread) for measure in of_states(layer)]
    all_measures = (*MEASURES[:-1], CONFIDENCE, *OF_NUMBERS, *of_layers)
    return tuple(measure for measure in all_measures if measure.key in row.spread)


@dataclass(frozen=True)
class Row:
    """A method at its last or best epoch.

    Attributes:
        method: the method.
        when: the epoch.
        spread: the spread of each measure over the seeds.
        difference: the difference to the first method; ``None`` for that one.
        to_manifold: the difference to manifold mixup; ``None`` for the first method and for
            manifold mixup itself, and without it.
    """

    method: str
    when: When
    spread: dict[str, Spread]
    difference: dict[str, Difference] | None
    to_manifold: dict[str, Difference] | None = None


def complete_seeds(results: Sequence[Result], methods: Sequence[str]) -> list[int]:
    """List the seeds that every method has finished."""
    finished = {(result.run.method, result.run.seed) for result in results}
    seeds = sorted({seed for _, seed in finished})
    return [seed for seed in seeds if all((method, seed) in finished for method in methods)]


def summarise(results: Sequence[Result], methods: Sequence[str]) -> list[Row]:
    """Summarise the seeds that every method has finished, paired by seed.

    Args:
        results: finished runs, in any order.
        methods: their methods, the baseline first.

    Returns:
        The rows of the last epoch, then those of the best; empty without a complete seed.
    """
    seeds = complete_seeds(results, methods)
    if not seeds:
        return []
    result_of = {(result.run.method, result.run.seed): result for result in results}
    times: tuple[When, When] = ("last", "best")
    rows = []
    for when in times:
        values_of = {m: _values([result_of[m, seed] for seed in seeds], when) for m in methods}
        for method, values in values_of.items():
            spreads = {key: spread(value) for key, value in values.items()}
            base = None if method == methods[0] else values_of[methods[0]]
            compared = method not in (methods[0], MANIFOLD)
            manifold = values_of.get(MANIFOLD) if compared and methods[0] != MANIFOLD else None
            differences = _differences(values, base), _differences(values, manifold)
            rows.append(Row(method, when, spreads, *differences))
    return rows


def only_means(rows: Sequence[Row]) -> list[Row]:
    """Remove standard deviations and differences, for a smoke test, where they mean nothing."""
    return [
        replace(
            row,
            spread={key: replace(value, std=math.nan) for key, value in row.spread.items()},
            difference=None,
            to_manifold=None,
        )
        for row in rows
    ]


def _differences(
    values: dict[str, list[float]], base: dict[str, list[float]] | None
) -> dict[str, Difference] | None:
    if base is None:
        return None
    return {
        key: paired_difference(value, base[key]) for key, value in values.items() if key in base
    }


def _values(results: Sequence[Result], when: When) -> dict[str, list[float]]:
    scores = [getattr(result, when) for result in results]
    values = {
        measure.key: [getattr(score, measure.key) for score in scores]
        for measure in (OF_NUMBERS if results[0].run.regression else MEASURES)
        if measure.key != "seconds"
    }
    values["seconds"] = [result.seconds for result in results]
    if when == "last":  # what a comparison adds is about the final weights
        common = [key for key in results[0].more if all(key in result.more for result in results)]
        values |= {key: [result.more[key] for result in results] for key in common}
    return values
