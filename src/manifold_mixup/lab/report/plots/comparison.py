"""The picture of a comparison: bars, reliability diagram and training curves."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from manifold_mixup.lab.evaluate import Reliability
from manifold_mixup.lab.evaluate.measures import Measure, layers_among
from manifold_mixup.lab.report.plots.canvas import (
    LINES,
    MARKERS,
    Picture,
    canvas,
    colour,
    picture,
)
from manifold_mixup.lab.report.plots.forest import NAMES, forest
from manifold_mixup.lab.report.plots.plane import InputView, boundary
from manifold_mixup.lab.report.summary import Row, measures_of
from manifold_mixup.lab.runs.result import Epoch, Result

_BESIDE = 5
"""More methods do not fit beside each other, and their curves cannot be told apart."""
_CLAIMS = 3.4  # inches of the row about the paper's claims

Curve = NDArray[np.float64]


def comparison_picture(
    results: Sequence[Result],
    rows: Sequence[Row],
    *,
    title: str,
    smoke: bool = False,
    spirals: Mapping[str, InputView] | None = None,
) -> Picture:
    """Draw bars with error bars, the reliability diagram, training curves and the paper's claims.

    The claims are the boundaries on two spirals and the flatness of hidden states, as far as there
    are any. More than five methods stand below each other, with their differences to the first.

    Args:
        results: finished runs, every method with the same seeds.
        rows: their summary.
        title: the title of the picture.
        smoke: whether this is a smoke test; the picture then states it, and has no bands.
        spirals: predictions over the plane of two spirals, by method.
    """
    last = [row for row in rows if row.when == "last"]
    many, layers = len(last) > _BESIDE, layers_among(last[0].spread)
    heights = [7.5, *([_CLAIMS] if spirals or (layers and not many) else [])]
    with canvas(13.33, sum(heights)) as figure:
        parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
        if many:
            forest(parts[0, 0], last)
        else:
            _measures(parts[0, 0], results, last, band=not smoke)
        if len(heights) > 1:
            _claims(parts[1, 0], last, [] if many else layers, spirals or {}, smoke=smoke)
        _title(figure, title, _subtitle(last, many=many, smoke=smoke))
        return picture(figure)


def _subtitle(last: Sequence[Row], *, many: bool, smoke: bool) -> str:
    """Return what the numbers of the picture are."""
    seeds = last[0].spread["seconds"].n
    if many:
        if smoke:
            return f"the numbers mean nothing (means of {seeds} seeds)"
        kind = f"means and 95 % intervals of paired differences over {seeds} seeds"
        return kind if seeds > 1 else "1 seed"
    if smoke:
        return f"SMOKE TEST: the numbers mean nothing (means of {seeds} seeds, dots)"
    return f"mean ± std over {seeds} seeds (dots)" if seeds > 1 else "1 seed"


def _measures(part: Any, results: Sequence[Result], last: Sequence[Row], *, band: bool) -> None:
    """Draw the bars and, below them, the curves."""
    methods = {row.method: [r for r in results if r.run.method == row.method] for row in last}
    halves: NDArray[np.object_] = part.subfigures(2, 1, height_ratios=[1, 1.15], squeeze=False)
    top, bottom = halves[:, 0]
    shown = [measure for measure in measures_of(last[0]) if measure.key in NAMES]
    for axes, measure in zip(top.subplots(1, len(shown)), shown, strict=True):
        _bars(axes, methods, last, measure)
    if results[0].run.regression:
        _number_curves(bottom, methods, band=band)
    else:
        _class_curves(bottom, methods, band=band)


def _claims(
    part: Any,
    last: Sequence[Row],
    layers: Sequence[str],
    spirals: Mapping[str, InputView],
    *,
    smoke: bool,
) -> None:
    """Draw the boundaries on the spirals, and the flatness of hidden states beside them."""
    count = len(spirals) + (2 if layers else 0)
    panels = iter(part.subplots(1, count, squeeze=False)[0])
    for name, view in spirals.items():
        boundary(next(panels), view, title=name)
    if layers:
        _flatness(next(panels), last, layers, "outside", "Outside 1st direction ↓")
        _flatness(next(panels), last, layers, "within", "Within classes ↓")
    words = "Two spirals, the first seed: the line is the boundary, dotted lines 95 % confidence."
    heading = f"{words} " if spirals else ""
    if layers:
        heading += "Right: variance of hidden states, in % of a class's, and of all."
    part.suptitle(f"{'SMOKE TEST. ' if smoke else ''}{heading}", fontsize=11, x=0.01, ha="left")


def _flatness(axes: Axes, rows: Sequence[Row], layers: Sequence[str], key: str, title: str) -> None:
    """Draw a group of bars for each layer, with a bar for each method."""
    width = 0.8 / len(rows)
    for k, row in enumerate(rows):
        values = [row.spread[f"{key} at {layer}"] for layer in layers]
        positions = np.arange(len(layers)) + (k - (len(rows) - 1) / 2) * width
        errors = [np.nan_to_num(value.std) for value in values]
        means = [value.mean for value in values]
        axes.bar(
            positions, means, width * 0.92, yerr=errors, color=colour(k), alpha=0.85, capsize=3
        )
    axes.set_title(title, fontsize=11)
    axes.set_ylabel("%")
    axes.set_xticks(range(len(layers)), layers)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.14)
    axes.set_ylim(bottom=0)


def _title(figure: Figure, title: str, spread: str) -> None:
    figure.suptitle(f"{title}\n{spread}", fontsize=13, fontweight="bold", x=0.01, ha="left")


def _class_curves(part: Any, methods: Mapping[str, list[Result]], *, band: bool) -> None:
    reliability, error, nll = part.subplots(1, 3)
    bins = {name: [r.last.reliability for r in results] for name, results in methods.items()}
    _reliability_diagram(reliability, bins)
    error_title, nll_title = "Test error over training", "Test NLL over training"
    training_curves(error, methods, lambda epoch: epoch.error, error_title, "%", band=band)
    training_curves(nll, methods, lambda epoch: epoch.nll, nll_title, "nats", band=band)


def _number_curves(part: Any, methods: Mapping[str, list[Result]], *, band: bool) -> None:
    axes = part.subplots()
    title, unit = "Test RMSE over training", "units of the target"
    training_curves(axes, methods, lambda epoch: epoch.error, title, unit, band=band)
    axes.legend(loc="upper right", fontsize=9)


def reliability_picture(methods: Mapping[str, Sequence[Reliability]], *, title: str) -> Picture:
    """Draw a reliability diagram.

    Args:
        methods: the bins of each method's models, which are pooled.
        title: the title of the picture.
    """
    with canvas(6, 6) as figure:
        _reliability_diagram(figure.subplots(), methods)
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        return picture(figure)


def _bars(
    axes: Axes, methods: dict[str, list[Result]], rows: Sequence[Row], measure: Measure
) -> None:
    """Draw a bar per method with the standard deviation over seeds, and a dot per seed."""
    for k, row in enumerate(rows):
        value = row.spread[measure.key]
        axes.bar(k, value.mean, width=0.66, color=colour(k), alpha=0.85)
        dots = [_value(result, measure) for result in methods[row.method]]
        spots = k + np.linspace(-0.16, 0.16, len(dots)) if len(dots) > 1 else [k]
        axes.plot(spots, dots, "o", color="white", markeredgecolor="#222222", markersize=4.5)
        if np.isfinite(value.std):
            axes.errorbar(k, value.mean, value.std, color="#222222", capsize=5, linewidth=1.6)
        text = f"{value.mean:.{min(measure.digits, 2)}f}"
        reach = max([value.mean + np.nan_to_num(value.std), *dots])
        axes.annotate(
            text,
            (k, reach),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )
    name, unit = NAMES[measure.key]
    axes.set_title(f"{name} {'↓' if measure.better == 'lower' else '↑'}", fontsize=11)
    axes.set_ylabel(unit)
    axes.set_xticks(range(len(rows)), [row.method.replace(" ", "\n", 1) for row in rows])
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.margins(y=0.14)
    if all(row.spread[measure.key].mean >= 0 for row in rows):
        axes.set_ylim(bottom=0)  # a deviation may reach below


def _value(result: Result, measure: Measure) -> float:
    return float(result.more.get(measure.key, getattr(result.last, measure.key, np.nan)))


def _reliability_diagram(axes: Axes, methods: Mapping[str, Sequence[Reliability]]) -> None:
    """Draw accuracy against confidence, with the diagonal of calibrated models."""
    for k, (method, bins) in enumerate(methods.items()):
        pooled = _pooled_bins(bins)
        enough = pooled[0] >= 0.005 * pooled[0].sum()
        _, confidence, accuracy = (values[enough] for values in pooled)
        axes.plot(
            confidence, accuracy, LINES[k % len(LINES)], color=colour(k), label=method,
            marker=MARKERS[k % len(MARKERS)], markersize=6, markeredgecolor="white",
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], ":", color="#999999", linewidth=1.5, label="calibrated")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    axes.set_title("Reliability")
    axes.legend(loc="upper left")


def _pooled_bins(parts: Sequence[Reliability]) -> tuple[Curve, Curve, Curve]:
    """Merge the bins of several seeds, weighted by their counts."""
    count, confidence, accuracy = (
        np.array([getattr(part, name) for part in parts], dtype=np.float64)
        for name in ("count", "confidence", "accuracy")
    )
    total = count.sum(0)
    per_bin = np.maximum(total, 1)
    return total, (count * confidence).sum(0) / per_bin, (count * accuracy).sum(0) / per_bin


def training_curves(
    axes: Axes,
    methods: Mapping[str, Sequence[Result]],
    value: Callable[[Epoch], float],
    title: str,
    unit: str,
    *,
    band: bool = True,
) -> None:
    """Draw the mean over seeds and optionally a band of ± one standard deviation.

    The limits of the axis ignore the first tenth of the epochs, where values are much higher, and
    of the others the most extreme 2 %, which are single spikes.
    """
    limits: list[float] = []
    for k, (method, results) in enumerate(methods.items()):
        curves = np.array([[value(epoch) for epoch in result.curve] for result in results])
        mean, std = curves.mean(0), curves.std(0, ddof=1) if len(curves) > 1 else 0 * curves[0]
        epochs = np.arange(1, len(mean) + 1)
        axes.plot(epochs, mean, LINES[k % len(LINES)], color=colour(k), label=method)
        std = std if band else 0 * std
        if band:
            axes.fill_between(
                epochs, mean - std, mean + std, color=colour(k), alpha=0.2, linewidth=0
            )
        later = slice(len(mean) // 10, None)
        limits += _limits((mean - std)[later], (mean + std)[later])
    low, high = min(limits, default=0.0), max(limits, default=0.0)
    room = 0.05 * (high - low) or 1.0
    axes.set(xlabel="epoch", ylabel=unit, ylim=(low - room, high + room))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_title(title)


def _limits(low: Curve, high: Curve) -> list[float]:
    """Return the ends of two curves and their values without the most extreme 2 %, 0 or more.

    Of fewer than fifty epochs none is left out.
    """
    low, high = low[np.isfinite(low)], high[np.isfinite(high)]
    if not low.size or not high.size:
        return []
    within = np.quantile(low, 0.02, method="lower"), np.quantile(high, 0.98, method="higher")
    return [max(0.0, float(value)) for value in (*within, low[-1], high[-1])]
