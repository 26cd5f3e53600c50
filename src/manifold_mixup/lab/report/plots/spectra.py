"""Singular values of the hidden states of a class, for each method."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from manifold_mixup.lab.report.plots.canvas import LINES, MARKERS, Picture, canvas, colour, picture

SpectraByMethod = Mapping[str, Sequence[Mapping[str, Sequence[float]]]]
"""The singular values by method, for every seed, by ``"centred"`` and ``"uncentred"``."""


def spectra_picture(layers: Mapping[str, SpectraByMethod], *, title: str) -> Picture:
    """Draw the singular values of every layer, uncentred and centred in each class.

    Args:
        layers: the singular values by layer.
        title: the title of the picture.
    """
    with canvas(5.5 * len(layers) + 1, 8.2) as figure:
        panels: NDArray[np.object_] = figure.subplots(2, len(layers), squeeze=False)
        for column, (layer, methods) in enumerate(layers.items()):
            for axes, kind in zip(panels[:, column], ("uncentred", "centred"), strict=True):
                _values(
                    axes,
                    {name: [row[kind] for row in seed_rows] for name, seed_rows in methods.items()},
                )
                axes.set_title(f"{layer}, {kind}")
                axes.set(xlabel="index of the singular value", ylabel="mean over classes")
        panels[0, 0].legend(loc="upper right")
        figure.suptitle(title, fontsize=13, x=0.01, ha="left")
        return picture(figure)


def _values(axes: Axes, methods: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Draw the mean over seeds with a band of ± one standard deviation."""
    for k, (method, seeds) in enumerate(methods.items()):
        values = np.array(seeds)
        mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0 * values[0]
        index = np.arange(1, len(mean) + 1)
        axes.plot(
            index, mean, LINES[k % len(LINES)], color=colour(k), label=method,
            marker=MARKERS[k % len(MARKERS)] if len(mean) < 40 else "", markersize=5,
        )  # fmt: skip
        axes.fill_between(index, mean - std, mean + std, color=colour(k), alpha=0.2, linewidth=0)
    axes.set_ylim(bottom=0)
