"""The objective of Theorem 1 against the dimension of the hidden state."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from manifold_mixup.lab.analyze.theory import Point
from manifold_mixup.lab.report.plots.canvas import Picture, canvas, colour, picture

FLOOR = 1e-17
"""The lower limit of the logarithmic axis; smaller values are rounding errors."""


def theory_picture(points: Sequence[Point], *, classes: int, alpha: float) -> Picture:
    """Draw J of the affine classifier and of the perceptron, on a linear and a logarithmic axis.

    Args:
        points: the results for each dimension.
        classes: the number of classes d.
        alpha: parameter α of the Beta(α, α) distribution of λ.
    """
    with canvas(11, 4.6) as figure:
        linear, logarithmic = figure.subplots(1, 2)
        for axes in (linear, logarithmic):
            _curves(axes, points)
            axes.axvline(classes - 1, color="#444444", linestyle=":", linewidth=1.5)
            axes.set(xlabel="dim(H), dimension of the hidden state", ylabel="J, squared error")
            axes.set_xticks([point.dim for point in points])
        linear.set_title("Objective J")
        linear.annotate(
            "d − 1", (classes - 1, 1), (4, -4), xycoords=("data", "axes fraction"),
            textcoords="offset points", va="top",
        )  # fmt: skip
        linear.legend(
            loc="upper right", bbox_to_anchor=(1, 0.93), frameon=True, edgecolor="white",
            framealpha=1,
        )  # fmt: skip
        logarithmic.set_title("Objective J, logarithmic")
        logarithmic.set_yscale("log")
        logarithmic.set_ylim(bottom=FLOOR)
        title = f"Theorem 1, d = {classes} classes, α = {alpha:g}; bars: range over seeds"
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
        return picture(figure)


def _curves(axes: Axes, points: Sequence[Point]) -> None:
    dims = np.array([point.dim for point in points])
    least = np.array([point.least for point in points])
    axes.plot(dims, np.maximum(least, FLOOR), "--", color=colour(0), label="affine, closed form")
    for k, (name, marker) in enumerate((("affine", "o"), ("mlp", "D")), start=1):
        values = np.maximum(np.array([getattr(point, name) for point in points]), FLOOR)
        middle = np.median(values, axis=1)
        reach = [middle - values.min(1), values.max(1) - middle]
        label = {"affine": "affine, found", "mlp": "MLP, found"}[name]
        axes.errorbar(
            dims, middle, reach, fmt=marker if name == "affine" else f"-{marker}",
            color=colour(k), label=label, capsize=3, markersize=6, linewidth=1.8,
        )  # fmt: skip
