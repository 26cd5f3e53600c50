"""The picture of risk against coverage."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manifold_mixup.lab.report.plots.canvas import Picture, canvas, picture
from manifold_mixup.lab.report.plots.report import band


def risk_picture(methods: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str) -> Picture:
    """Draw the error among the most confident predictions against their share.

    Args:
        methods: the rows of the battery part ``selective`` for every seed, by method.
        title: the title of the picture.
    """
    with canvas(7, 4.6) as figure:
        axes = figure.subplots()
        for k, (name, rows) in enumerate(methods.items()):
            coverage = 100 * np.array(rows[0]["coverage"])
            risk = np.array([row["risk"] for row in rows], dtype=float)  # None becomes NaN
            band(axes, coverage, risk, k, name, marked=False)
        axes.set(xlabel="coverage, % of the predictions", ylabel="error among them, %")
        axes.set(xlim=(0, 100))
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper left")
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        return picture(figure)
