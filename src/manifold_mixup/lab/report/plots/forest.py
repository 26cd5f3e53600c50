"""Many methods below each other: their differences to the first, with intervals."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.report.summary import Row, measures_of

NAMES = {
    "error": ("Test error", "%"),
    "nll": ("Negative log-likelihood", "nats"),
    "ece": ("Calibration error (ECE)", "%"),
    "fgsm_accuracy": ("Accuracy under FGSM", "%"),
    "confidence": ("Confidence off data", "greatest softmax"),
    "rmse": ("Root mean squared error", "units of the target"),
    "r2": ("Explained variance, R²", ""),
}
"""The names and units of the measures in pictures."""

_COLOURS = {"better": "#0072b2", "worse": "#d55e00", "unclear": "#777777"}


def forest(figure: Figure, rows: Sequence[Row]) -> None:
    """Draw the difference of each method to the first, with its interval, for each measure.

    The mean of the method is written beside it.

    Args:
        figure: the figure to fill.
        rows: the rows of one epoch, the first method first.
    """
    measures = [measure for measure in measures_of(rows[0]) if measure.key in NAMES]
    panels: Any = figure.subplots(1, len(measures), sharey=True, squeeze=False)
    for axes, measure in zip(panels[0], measures, strict=True):
        _differences(axes, rows, measure)
    first = panels[0][0]
    first.set_yticks(range(len(rows)), [row.method for row in rows])
    first.set_ylim(len(rows) - 0.5, -0.5)


def _differences(axes: Axes, rows: Sequence[Row], measure: Measure) -> None:
    base = rows[0].spread[measure.key].mean
    axes.axvline(0, color="#999999", linestyle=":", linewidth=1.5)
    for position, row in enumerate(rows):
        mean = row.spread[measure.key].mean
        difference = None if row.difference is None else row.difference[measure.key]
        colour = _COLOURS["unclear" if difference is None else measure.verdict(difference)]
        if difference is not None and difference.n > 1:
            axes.plot(
                [difference.low, difference.high], [position, position], color=colour, linewidth=2.5
            )
        axes.plot(mean - base, position, "o", color=colour, markersize=8)
        axes.annotate(
            f"{mean:.{min(measure.digits, 2)}f}",
            (1.02, position),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=10,
        )
    name, unit = NAMES[measure.key]
    axes.set_title(f"{name} {'↓' if measure.better == 'lower' else '↑'}", fontsize=12)
    axes.set_xlabel(f"difference to {rows[0].method}{', ' * bool(unit)}{unit}", fontsize=10)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
