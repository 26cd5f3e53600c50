"""The sections below the comparison: training, reliability, and the results of `evaluate`."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.evaluate.statistics import spread
from manifold_mixup.lab.recipes import drawn
from manifold_mixup.lab.report import by_epoch, confidence, plots, published, robustness
from manifold_mixup.lab.report.paper_picture import plane_view
from manifold_mixup.lab.report.robustness import accuracy
from manifold_mixup.lab.report.section import (
    Grid,
    Methods,
    Number,
    Section,
    by_method,
    embedded,
    evaluated,
    number,
    tested,
)
from manifold_mixup.lab.report.table import spread_text

_FIRST_LINES = 12  # rows of a table of epochs; longer trainings are thinned out


def _curves(methods: Methods) -> Section:
    results = {name: [item.result for item in items] for name, items in methods.items()}
    grids = [
        _curve_grid(results, "Test error, %", lambda epoch: epoch.error, 2),
        _curve_grid(results, "Test NLL, nats", lambda epoch: epoch.nll, 3),
    ]
    return Section(
        "training",
        "Training",
        "Mean over the seeds, with a band of ± one standard deviation.",
        pictures=[
            (embedded(plots.curve_picture(results, what)), f"{title} of every method by epoch.")
            for what, (title, _) in plots.CURVES.items()
        ],
        numbers=grids,
    )


def _curve_grid(
    results: Mapping[str, Sequence[Any]], caption: str, value: Callable[[Any], float], digits: int
) -> Grid:
    longest = max(len(one.curve) for of in results.values() for one in of)
    step = max(1, longest // _FIRST_LINES)
    epochs = [*range(step, longest, step), longest]
    rows = []
    for epoch in epochs:
        cells = []
        for of in results.values():
            values = [value(one.curve[epoch - 1]) for one in of if len(one.curve) >= epoch]
            cells.append(Number(spread_text(spread(values), digits) if values else ""))
        rows.append((f"epoch {epoch}", cells))
    return Grid(caption, list(results), rows)


def _reliability(methods: Methods) -> Section:
    bins = {name: [item.result.last.reliability for item in of] for name, of in methods.items()}
    ece = [
        (name, [Number(spread_text(spread([item.result.last.ece for item in of]), 2))])
        for name, of in methods.items()
    ]
    return Section(
        "reliability",
        "Reliability",
        "Accuracy of the predictions with a given confidence, at the last epoch, over all seeds. "
        "On the diagonal, the two are equal; below it, the model is overconfident.",
        pictures=[
            (
                embedded(plots.reliability_picture(bins, title="")),
                "Reliability diagram: accuracy against confidence for every method.",
            )
        ],
        numbers=[
            Grid("Expected calibration error, %", ["ECE"], ece),
            confidence.bins_table("Correct predictions in each bin", bins),
        ],
    )


def _deformations(methods: Methods) -> Section | None:
    found = evaluated(methods, "deformations")
    if not found:
        return None
    return Section(
        "deformations",
        "Deformed images",
        "Accuracy on the deformed test set (the paper's Tables 4 and 9). "
        + tested(methods, "deformations"),
        pictures=[
            (
                embedded(plots.deformations_picture(found, title="")),
                "Accuracy on deformed images for every method.",
            )
        ],
        numbers=[by_method("Accuracy, %", list(found), found, accuracy)],
    )


def _interpolation(methods: Methods) -> Section | None:
    found = evaluated(methods, "interpolation")
    if not found:
        return None
    rows_of_all = (row for by_name in found.values() for of in by_name.values() for row in of)
    top = max(max(row["nll"]) for row in rows_of_all)
    return Section(
        "interpolation",
        "Between two examples",
        "The loss if the states of two test examples and their targets are mixed with λ at a "
        "layer; at λ = 0 and 1, it is the plain NLL. The lower it is in between, the better the "
        "model predicts mixed targets from mixed states. " + tested(methods, "interpolation"),
        pictures=[
            (
                embedded(plots.interpolation_picture(by_name, title=layer, top=top)),
                f"Loss of states mixed at {layer} against λ, for every method.",
            )
            for layer, by_name in found.items()
        ],
        numbers=[_losses_between(layer, by_name) for layer, by_name in found.items()],
    )


def _losses_between(layer: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return the numbers of the curves at a layer, for about ten λ, averaged over the seeds."""
    lams = next(iter(by_name.values()))[0]["lam"]
    rows = [
        (
            f"λ = {lams[k]:g}",
            [
                number([one["nll"][k] for one in of if one["lam"] == lams], 3)
                for of in by_name.values()
            ],
        )
        for k in range(0, len(lams), max(1, len(lams) // 10))
    ]
    return Grid(f"{layer}: NLL, nats", list(by_name), rows)


_FLATNESS: dict[str, Callable[[Any], float]] = {
    "s₁, not centred": lambda one: one["uncentred"]["s1"],
    "sum of the others": lambda one: one["uncentred"]["rest"],
    "% of the squares outside the first direction": lambda one: one["uncentred"]["outside"],
    "% of the variance within classes": lambda one: one["within"],
    "% of that outside its class's first direction": lambda one: one["centred"]["outside"],
}
# Known only for the layer that is the input of the classifier.
_SEEN: dict[str, Callable[[Any], float]] = {
    "% of that in the row space of the classifier": lambda one: one["seen"]
}


def _spectra(methods: Methods) -> Section | None:
    found = evaluated(methods, "spectra")
    if not found:
        return None
    drawn = {
        layer: {
            name: [{kind: one[kind]["values"] for kind in ("centred", "uncentred")} for one in at]
            for name, at in by_name.items()
        }
        for layer, by_name in found.items()
    }
    return Section(
        "spectra",
        "Spectra of hidden states",
        "Singular values of the states of a class, averaged over the classes. Centred: the mean of "
        "the class is subtracted. " + tested(methods, "spectra"),
        pictures=[
            (
                embedded(plots.spectra_picture({layer: methods_of}, title="")),
                f"Singular values of the states of a class at {layer}, for every method.",
            )
            for layer, methods_of in drawn.items()
        ],
        numbers=[_flatness(layer, by_name) for layer, by_name in found.items()],
    )


def _flatness(layer: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return the flatness of the states at a layer: a row per method, averaged over the seeds."""
    known = all("seen" in one for of in by_name.values() for one in of)
    shown = _FLATNESS | (_SEEN if known else {})
    rows = [
        (name, [number([value(one) for one in of], 2) for value in shown.values()])
        for name, of in by_name.items()
    ]
    return Grid(layer, list(shown), rows)


def _confidence(methods: Methods) -> Section | None:
    found = evaluated(methods, "confidence")
    if not found:
        return None
    grids = [
        by_method("Mean of the greatest softmax", list(found), found, _greatest, digits=3),
        by_method("% of the inputs where it is above 0.95", list(found), found, _sure),
    ]
    words = (
        "The confidence on inputs off the data: uniform in the box of the training inputs, and "
        "farther from every one of them than 99 % of the test inputs are. The paper claims that "
        "it falls with manifold mixup. "
    )
    return Section("confidence", "Confidence", words + tested(methods, "confidence"), tables=grids)


def _greatest(row: Mapping[str, Any]) -> float:
    return math.nan if row["greatest"] is None else float(row["greatest"])


def _sure(row: Mapping[str, Any]) -> float:
    return math.nan if row["sure"] is None else float(row["sure"])


_IN_SHORT: dict[str, Callable[[Any], float]] = {
    "% of a class's variance outside its first direction": lambda one: one["outside"],
    "% of the variance of all states within classes": lambda one: one["within"],
    "s₁ in % of the sum of all, not centred (the paper's)": lambda one: one["s1_share"],
}


def _flatness_in_short(methods: Methods) -> Section | None:
    found = evaluated(methods, "flatness")
    if not found:
        return None
    grids = [
        Grid(
            layer,
            list(_IN_SHORT),
            [
                (name, [number([value(one) for one in of], 1) for value in _IN_SHORT.values()])
                for name, of in by_name.items()
            ],
        )
        for layer, by_name in found.items()
    ]
    words = (
        "How flat the hidden states of a class are. The paper's own measure, of states that are "
        "not centred, also grows if a class only shrinks towards its mean; it therefore stands "
        "beside the other two. "
    )
    return Section("flatness", "Flatness", words + tested(methods, "flatness"), tables=grids)


_COLLAPSE = {
    "nc1": "NC1",
    "nc2_norms": "NC2, norms",
    "nc2_angles": "NC2, angles",
    "nc2_maximal": "NC2, to the greatest angle",
    "nc3": "NC3",
    "nc4": "NC4, %",
}


def _collapse(methods: Methods) -> Section | None:
    found = evaluated(methods, "collapse")
    if not found:
        return None
    words = (
        "Neural collapse (Papyan, Han and Donoho 2020); each number is 0 for full collapse. NC1: "
        "the variance within classes against that between them, tr(Σ_W Σ_B⁺) / classes. NC2, of "
        "the class means less their mean: the deviation of their norms over its mean, of their "
        "cosines, and the mean distance of the cosines to −1 / (classes − 1). NC3: the squared "
        "distance of the classifier and these means, both of norm 1. NC4: the share of examples "
        "whose nearest class mean of the training set is not the decision. Training: the examples "
        "as they are, neither mixed nor augmented. "
    )
    grids = [_collapsed(layer, by_name) for layer, by_name in found.items()]
    return Section("collapse", "Neural collapse", words + tested(methods, "collapse"), tables=grids)


def _collapsed(layer: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return the numbers at a layer that are known: a row per method, averaged over the seeds."""
    of_all = [one for of in by_name.values() for one in of]
    known = [key for key in _COLLAPSE if all(one[key] is not None for one in of_all)]
    rows = [
        (name, [number([one[key] for one in of], 3 - 2 * (key == "nc4")) for key in known])
        for name, of in by_name.items()
    ]
    return Grid(layer, [_COLLAPSE[key] for key in known], rows)


def boundaries(methods: Methods) -> Section | None:
    """Return the decision boundaries, if all runs are trained on the spirals."""
    items = {name: of[0] for name, of in methods.items()}
    if any(drawn.source(item.result.run.data) not in drawn.SPIRALS for item in items.values()):
        return None
    views = {
        name: plane_view(item.folder, datasets.load_for(item.result.run, root=Path()), "bottleneck")
        for name, item in items.items()
    }
    rows = [(name, [Number(f"{view.inputs.confident:.1f}")]) for name, view in views.items()]
    return Section(
        "boundaries",
        "Decision boundaries",
        "The first seed of each method. Top: the plane of the inputs. Bottom: the hidden states. "
        "On the line, both classes are equally likely. The dots are the states of evenly spread "
        "inputs.",
        pictures=[
            (
                embedded(plots.plane_picture(views, title="")),
                "Decision boundary of every method in input space and in hidden space.",
            )
        ],
        numbers=[Grid("Confidence above 0.95", ["% of the plane"], rows)],
    )


SECTIONS: tuple[Callable[[Methods], Section | None], ...] = (
    _curves, _reliability, confidence.calibration, confidence.selective, robustness.attacks,
    robustness.strength, robustness.bounded, robustness.rising, _deformations,
    published.corrupted, published.new_images, confidence.separation, _confidence, _interpolation,
    _flatness_in_short, _spectra, _collapse, by_epoch.states, boundaries,
)  # fmt: skip
"""The sections in the order of the page; a section without data is `None`."""
