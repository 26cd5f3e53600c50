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
    found = {f"{row.method} − {first}": _seen(row.difference) for row in last}
    found |= {f"{row.method} − {MANIFOLD}": _seen(row.to_manifold) for row in last}
    return {name: values for name, values in found.items() if values}


def _seen(differences: Mapping[str, Difference] | None) -> dict[str, float]:
    found = {key: smallest_seen(one) for key, one in (differences or {}).items()}
    return {key: value for key, value in found.items() if not math.isnan(value)}


def power_text(rows: Sequence[Row]) -> str:
    """Return a sentence about the smallest differences, or "" for a single seed."""
    found = smallest_differences(rows)
    if not found:
        return ""
    shown = [one for one in measures_of(rows[0]) if one.key != "seconds" and not one.layer]
    n = rows[0].spread["seconds"].n
    sizes = "; ".join(f"{name}: {_sizes(values, shown)}" for name, values in found.items())
    return (
        f"Power: with {n} seeds, four of five such tables would show a true difference of this "
        f"size, and most would miss half of it (paired t test, α 5 %, power 80 %, at the "
        f"deviations observed here). {sizes}."
    )


def _sizes(values: Mapping[str, float], shown: Sequence[Measure]) -> str:
    return ", ".join(
        f"{one.title} {values[one.key]:.{one.digits}f}" for one in shown if one.key in values
    )
