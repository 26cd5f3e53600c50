"""The smallest differences that the seeds of a comparison can find."""

import math
from collections.abc import Mapping, Sequence

from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.evaluate.statistics import Difference, smallest_seen
from manifold_mixup.lab.report.summary import MANIFOLD, Row, measures_of


def smallest_differences(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return the smallest differences at the last epoch that would be found in four of five cases.

    They are those of a paired t test at 5 % whose power is 80 %, if the true standard deviation of
    the paired differences is the observed one; see `smallest_seen`.

    Args:
        rows: the result of `summarise`.

    Returns:
        By what is compared, such as ``"input mixup − no mixup"``, and by measure; empty for a
        single seed.
    """
    last = [row for row in rows if row.when == "last"]
    first = last[0].method
    result = {f"{row.method} − {first}": _smallest(row.difference) for row in last}
    result |= {f"{row.method} − {MANIFOLD}": _smallest(row.to_manifold) for row in last}
    return {name: values for name, values in result.items() if values}


def _smallest(differences: Mapping[str, Difference] | None) -> dict[str, float]:
    smallest = {key: smallest_seen(difference) for key, difference in (differences or {}).items()}
    return {key: value for key, value in smallest.items() if not math.isnan(value)}


def power_text(rows: Sequence[Row]) -> str:
    """Return a sentence about the smallest differences, or "" for a single seed."""
    differences = smallest_differences(rows)
    if not differences:
        return ""
    measures = [
        measure
        for measure in measures_of(rows[0])
        if measure.key != "seconds" and not measure.layer
    ]
    n = rows[0].spread["seconds"].n
    sizes = "; ".join(f"{name}: {_sizes(values, measures)}" for name, values in differences.items())
    return (
        f"Power: with {n} seeds, four of five such tables would show a true difference of this "
        f"size, and most would miss half of it (paired t test, α 5 %, power 80 %, at the "
        f"deviations observed here). {sizes}."
    )


def _sizes(values: Mapping[str, float], measures: Sequence[Measure]) -> str:
    return ", ".join(
        f"{measure.title} {values[measure.key]:.{measure.digits}f}"
        for measure in measures
        if measure.key in values
    )
