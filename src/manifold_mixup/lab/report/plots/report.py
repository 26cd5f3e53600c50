"""Pictures of a report: training curves, FGSM by ε, deformed images, interpolation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from manifold_mixup.lab.report.plots.canvas import LINES, MARKERS, Picture, canvas, colour, picture
from manifold_mixup.lab.report.plots.comparison import training_curves
from manifold_mixup.lab.runs.result import Result

CURVES: dict[str, tuple[str, str]] = {
    "train_loss": ("Training loss", "nats"),
    "error": ("Test error", "%"),
    "nll": ("Test NLL", "nats"),
}


def curve_picture(
    methods: Mapping[str, Sequence[Result]], what: str, *, title: str = ""
) -> Picture:
    """Draw one of `CURVES` over the epochs: the mean over seeds with a band.

    Args:
        methods: the runs of each method; runs with another number of epochs than the first are left
            out.
        what: a field of `Epoch`.
        title: the title of the picture.
    """
    comparable = {
        name: [run for run in runs if len(run.curve) == len(runs[0].curve)]
        for name, runs in methods.items()
    }
    name, unit = CURVES[what]
    with canvas(*((8, 5) if title else (5, 4.2))) as figure:
        axes = figure.subplots()
        training_curves(axes, comparable, lambda epoch: float(getattr(epoch, what)), name, unit)
        axes.legend(loc="best", fontsize=10)
        if title:
            figure.suptitle(title, fontsize=11, x=0.01, ha="left", wrap=True)
        return picture(figure)


def states_curve_picture(
    epochs: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]], *, title: str
) -> Picture:
    """Draw a measure of the hidden states by epoch: the mean over seeds with a band.

    Args:
        epochs: the measured epochs.
        curves: the values at these epochs for every seed, by method.
        title: the measure, on the axis.
    """
    with canvas(5, 4.2) as figure:
        axes = figure.subplots()
        for k, (name, seed_values) in enumerate(curves.items()):
            band(axes, np.array(epochs, dtype=float), np.array(seed_values, dtype=float), k, name)
        axes.set(xlabel="epoch", ylabel=title)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        axes.legend(loc="best", fontsize=10)
        return picture(figure)


def strength_picture(
    methods: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str, attack: str = "FGSM"
) -> Picture:
    """Draw the error under an attack against its ε; an accuracy that is not known is left out.

    Args:
        methods: the rows of the battery part ``strength`` or ``apgd`` for every seed, by method.
        title: the title of the picture.
        attack: the name of the attack.
    """
    with canvas(7, 4.6) as figure:
        axes = figure.subplots()
        first = next(iter(methods.values()))[0]
        for k, (name, rows) in enumerate(methods.items()):
            risk = 100 - np.array([row["accuracy"] for row in rows], dtype=float)
            band(axes, np.array(first["eps"]), risk, k, name)
        axes.set(xlabel=f"ε, {first['space']}", ylabel=f"error under {attack}, %", ylim=(0, 100))
        axes.legend(loc="lower right")
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        return picture(figure)


def deformations_picture(
    evaluations: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], *, title: str
) -> Picture:
    """Draw the accuracy on deformed images as bars.

    Args:
        evaluations: the rows of the battery part ``deformations`` for every seed, by deformation
            and method.
        title: the title of the picture.
    """
    methods = list(dict.fromkeys(name for by_name in evaluations.values() for name in by_name))
    with canvas(9, 0.9 + 0.16 * (len(methods) + 1.2) * len(evaluations)) as figure:
        axes, high = figure.subplots(), 0.8 / len(methods)
        for k, name in enumerate(methods):
            accuracy = [
                np.array([row["accuracy"] for row in by_name.get(name, ())])
                for by_name in evaluations.values()
            ]
            mean = [values.mean() if len(values) else np.nan for values in accuracy]
            std = [values.std(ddof=1) if len(values) > 1 else np.nan for values in accuracy]
            positions = np.arange(len(evaluations)) + (k - (len(methods) - 1) / 2) * high
            axes.barh(
                positions, mean, high, xerr=std, color=colour(k), label=name, capsize=2,
                error_kw={"linewidth": 1},
            )  # fmt: skip
        axes.set_yticks(range(len(evaluations)), list(evaluations))
        axes.invert_yaxis()
        axes.set(xlabel="accuracy, %")
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower right", fontsize=10)
        figure.suptitle(title, fontsize=12, x=0.01, ha="left")
        return picture(figure)


def interpolation_picture(
    methods: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str, top: float
) -> Picture:
    """Draw the loss against λ at a layer.

    Args:
        methods: the rows of the battery part ``interpolation`` for every seed, by method; rows with
            other λ than the first of the method are left out.
        title: the layer.
        top: the upper limit of the loss axis, the same for all layers.
    """
    with canvas(5, 4.2) as figure:
        axes = figure.subplots()
        for k, (name, rows) in enumerate(methods.items()):
            lams = rows[0]["lam"]
            nll = np.array([row["nll"] for row in rows if row["lam"] == lams])
            band(axes, np.array(lams), nll, k, name, marked=False)
        axes.set_title(title)
        axes.set(xlabel="λ, share of the example itself", ylabel="NLL of mixed states, nats")
        axes.set_ylim(0, 1.05 * top)
        axes.legend(loc="best", fontsize=10)
        return picture(figure)


def band(
    axes: Axes,
    x: NDArray[np.float64],
    values: NDArray[np.float64],
    k: int,
    name: str,
    *,
    marked: bool = True,
) -> None:
    """Draw the mean of the rows of ``of`` against ``x``, with a band of ± one deviation."""
    mean, std = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else 0 * values[0]
    axes.plot(
        x, mean, LINES[k % len(LINES)], color=colour(k), label=name,
        marker=MARKERS[k % len(MARKERS)] if marked else "", markersize=6, markeredgecolor="white",
    )  # fmt: skip
    axes.fill_between(x, mean - std, mean + std, color=colour(k), alpha=0.2, linewidth=0)
