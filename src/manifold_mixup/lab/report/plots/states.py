"""Hidden states of two units, with a colour per class."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from manifold_mixup.lab.report.plots.canvas import Picture, canvas, picture

Points = tuple[NDArray[np.float64], NDArray[np.int64]]
"""States ``(n, 2)`` and labels ``(n,)``."""

# Not everybody can distinguish ten colours, so each class also has its number at its centre.
_MAP = "tab10"


def states_picture(groups: Mapping[str, Mapping[str, Points]], *, title: str) -> Picture:
    """Draw the states of every class, with a column per method and a row per group.

    Args:
        groups: the states by group and method.
        title: the title of the picture.
    """
    most = max(len(methods) for methods in groups.values())
    with canvas(3.9 * most + 0.4, 3.9 * len(groups) + 0.5) as figure:
        panels: NDArray[np.object_] = figure.subplots(len(groups), most, squeeze=False)
        for line, (group, methods) in zip(panels, groups.items(), strict=True):
            line[0].set_ylabel(f"{group}\nsecond hidden unit")
            for axes, (name, (states, y)) in zip(line, methods.items(), strict=False):
                _classes(axes, states, y)
                axes.set_title(name)
        for axes in panels[-1]:
            axes.set_xlabel("first hidden unit")
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        return picture(figure)


def _classes(axes: Axes, states: NDArray[np.float64], y: NDArray[np.int64]) -> None:
    across, up = states.T
    axes.scatter(
        across, up, s=4, c=y, cmap=_MAP, vmin=0, vmax=9, alpha=0.5, linewidths=0, rasterized=True
    )
    for label in np.unique(y):
        x, height = np.median(states[y == label], axis=0)
        axes.text(
            x, height, str(label), ha="center", va="center", fontweight="bold", fontsize=11,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )  # fmt: skip
    axes.grid(visible=False)
    axes.set_box_aspect(1)
