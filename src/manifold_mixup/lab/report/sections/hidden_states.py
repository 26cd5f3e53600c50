"""The sections of the report on hidden states: mixed states, spectra, flatness, collapse."""

from collections.abc import Callable, Mapping
from typing import Any

from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.sections.section import (
    Grid,
    Methods,
    Section,
    embedded,
    evaluated,
    number,
    tested,
)


def interpolation(methods: Methods) -> Section | None:
    """Return the loss of mixed states by λ."""
    evaluations = evaluated(methods, "interpolation")
    if not evaluations:
        return None
    all_rows = (
        row for by_name in evaluations.values() for rows in by_name.values() for row in rows
    )
    top = max(max(row["nll"]) for row in all_rows)
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
            for layer, by_name in evaluations.items()
        ],
        numbers=[_losses_at_layer(layer, by_name) for layer, by_name in evaluations.items()],
    )


def _losses_at_layer(layer: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return the numbers of the curves at a layer, for about ten λ, averaged over the seeds."""
    lams = next(iter(by_name.values()))[0]["lam"]
    rows = [
        (
            f"λ = {lams[k]:g}",
            [
                number([row["nll"][k] for row in seed_rows if row["lam"] == lams], 3)
                for seed_rows in by_name.values()
            ],
        )
        for k in range(0, len(lams), max(1, len(lams) // 10))
    ]
    return Grid(f"{layer}: NLL, nats", list(by_name), rows)


_SPECTRA: dict[str, Callable[[Any], float]] = {
    "s₁, not centred": lambda row: row["uncentred"]["s1"],
    "sum of the others": lambda row: row["uncentred"]["rest"],
    "% of the squares outside the first direction": lambda row: row["uncentred"]["outside"],
    "% of the variance within classes": lambda row: row["within"],
    "% of that outside its class's first direction": lambda row: row["centred"]["outside"],
}


# Known only for the layer that is the input of the classifier.
_SEEN: dict[str, Callable[[Any], float]] = {
    "% of that in the row space of the classifier": lambda row: row["seen"]
}


def spectra(methods: Methods) -> Section | None:
    """Return the singular values of the states of a class."""
    evaluations = evaluated(methods, "spectra")
    if not evaluations:
        return None
    spectra = {
        layer: {
            name: [{kind: row[kind]["values"] for kind in ("centred", "uncentred")} for row in rows]
            for name, rows in by_name.items()
        }
        for layer, by_name in evaluations.items()
    }
    return Section(
        "spectra",
        "Spectra of hidden states",
        "Singular values of the states of a class, averaged over the classes. Centred: the mean of "
        "the class is subtracted. " + tested(methods, "spectra"),
        pictures=[
            (
                embedded(plots.spectra_picture({layer: by_method}, title="")),
                f"Singular values of the states of a class at {layer}, for every method.",
            )
            for layer, by_method in spectra.items()
        ],
        numbers=[_spectra_at_layer(layer, by_name) for layer, by_name in evaluations.items()],
    )


def _spectra_at_layer(layer: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return the flatness of the states at a layer: a row per method, averaged over the seeds."""
    has_classifier = all("seen" in row for seed_rows in by_name.values() for row in seed_rows)
    columns = _SPECTRA | (_SEEN if has_classifier else {})
    rows = [
        (name, [number([value(row) for row in seed_rows], 2) for value in columns.values()])
        for name, seed_rows in by_name.items()
    ]
    return Grid(layer, list(columns), rows)


_FLATNESS: dict[str, Callable[[Any], float]] = {
    "% of a class's variance outside its first direction": lambda row: row["outside"],
    "% of the variance of all states within classes": lambda row: row["within"],
    "s₁ in % of the sum of all, not centred (the paper's)": lambda row: row["s1_share"],
}


def flatness(methods: Methods) -> Section | None:
    """Return the flatness of the states of a class."""
    evaluations = evaluated(methods, "flatness")
    if not evaluations:
        return None
    grids = [
        Grid(
            layer,
            list(_FLATNESS),
            [
                (name, [number([value(row) for row in rows], 1) for value in _FLATNESS.values()])
                for name, rows in by_name.items()
            ],
        )
        for layer, by_name in evaluations.items()
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


def collapse(methods: Methods) -> Section | None:
    """Return the measures of neural collapse."""
    evaluations = evaluated(methods, "collapse")
    if not evaluations:
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
    grids = [_collapse_at_layer(layer, by_name) for layer, by_name in evaluations.items()]
    return Section("collapse", "Neural collapse", words + tested(methods, "collapse"), tables=grids)


def _collapse_at_layer(layer: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return the numbers at a layer that are known: a row per method, averaged over the seeds."""
    all_rows = [row for seed_rows in by_name.values() for row in seed_rows]
    keys = [key for key in _COLLAPSE if all(row[key] is not None for row in all_rows)]
    rows = [
        (name, [number([row[key] for row in seed_rows], 3 - 2 * (key == "nc4")) for key in keys])
        for name, seed_rows in by_name.items()
    ]
    return Grid(layer, [_COLLAPSE[key] for key in keys], rows)
