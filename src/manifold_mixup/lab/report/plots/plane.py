"""Classifiers of points in the plane: their boundaries there and at a layer of two units."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from manifold_mixup.lab.evaluate.plane import SURE, Plane
from manifold_mixup.lab.report.plots.canvas import COLOURS, Picture, canvas, picture

Points = NDArray[np.float64]
_FIRST, _SECOND = COLOURS[1], COLOURS[2]
_BETWEEN = LinearSegmentedColormap.from_list("between", [_FIRST, "#FFFFFF", _SECOND])


class InputView(NamedTuple):
    """The data to draw for one model in the plane of its inputs.

    Attributes:
        inputs: the predictions over the plane.
        points: training points, ``(n, 2)``.
        y: their labels, 0 or 1.
    """

    inputs: Plane
    points: Points
    y: NDArray[np.int64]


class View(NamedTuple):
    """The data to draw for one model.

    Attributes:
        inputs: the predictions over the plane.
        points: training points, ``(n, 2)``.
        y: their labels, 0 or 1.
        hidden: the predictions over the states of the layer.
        states: the states of the training points, ``(n, 2)``.
        spread: the states of inputs spread evenly over the plane, ``(m, 2)``.
    """

    inputs: Plane
    points: Points
    y: NDArray[np.int64]
    hidden: Plane
    states: Points
    spread: Points


def plane_picture(methods: Mapping[str, View], *, title: str) -> Picture:
    """Draw the boundaries in input space and, below, in hidden space, with a column per method.

    Args:
        methods: a model of each method, by name.
        title: the title of the picture.
    """
    with canvas(3.4 * len(methods) + 1.4, 7.2) as figure:
        panels: NDArray[np.object_] = figure.subplots(2, len(methods), squeeze=False)
        for (above, below), (name, view) in zip(panels.T, methods.items(), strict=True):
            field = boundary(above, view, title=name)
            _field(below, view.hidden)
            across, up = view.spread.T
            below.scatter(
                across, up, s=1.5, color="black", alpha=0.35, linewidths=0, rasterized=True
            )
            _points(below, view.states, view.y)
            below.grid(visible=False)
            below.set_box_aspect(1)
            below.locator_params(nbins=5)
            below.set_xlabel("first hidden unit")
        panels[0, 0].set_ylabel("input space, x₂")
        panels[1, 0].set_ylabel("hidden space, second unit")
        figure.colorbar(field, ax=panels, label="probability of the blue class", shrink=0.6)
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
        return picture(figure)


def boundary(axes: Axes, view: InputView | View, *, title: str) -> AxesImage:
    """Draw the boundary of a model in the plane of its inputs, with its training points."""
    field = _field(axes, view.inputs)
    _points(axes, view.points, view.y)
    axes.set_title(title)
    axes.grid(visible=False)
    axes.set_box_aspect(1)
    axes.locator_params(nbins=5)
    axes.set_xlabel("x₁")
    return field


def _field(axes: Axes, plane: Plane) -> AxesImage:
    """Draw the probability as a colour, the boundary as a line, high confidence as dotted lines."""
    side = round(len(plane.points) ** 0.5)
    points = plane.points.view(side, side, 2).numpy()
    second = plane.probabilities[:, 1].view(side, side).numpy()
    low, high = plane.low.tolist(), plane.high.tolist()
    image = axes.imshow(
        second.T, origin="lower", extent=(low[0], high[0], low[1], high[1]), aspect="auto",
        cmap=_BETWEEN, vmin=0, vmax=1, alpha=0.75, interpolation="bilinear",
    )  # fmt: skip
    if second.min() < 0.5 < second.max():
        axes.contour(
            points[..., 0], points[..., 1], second, [0.5], colors="#222222", linewidths=1.6
        )
        axes.contour(
            points[..., 0], points[..., 1], second, [1 - SURE, SURE],
            colors="#222222", linewidths=0.6, linestyles="dotted",
        )  # fmt: skip
    return image


def _points(axes: Axes, points: Points, y: NDArray[np.int64]) -> None:
    for label, (fill, marker) in enumerate(((_FIRST, "s"), (_SECOND, "o"))):
        across, up = points[y == label].T
        axes.scatter(
            across,
            up,
            s=14,
            color=fill,
            marker=marker,
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
        )
