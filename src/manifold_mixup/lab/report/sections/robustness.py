"""The sections of the report on attacks, and on deformed images."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.sections.section import (
    Grid,
    Methods,
    Number,
    Section,
    by_method,
    embedded,
    evaluated,
    notes,
    number,
    tested,
)


def attacks(methods: Methods) -> Section | None:
    """Return the accuracy under the usual attacks."""
    evaluations = evaluated(methods, "attacks", key="stated")
    if not evaluations:
        return None
    words = "Accuracy in percent on attacked test examples. Each row describes its attack. "
    table = by_method("Accuracy under attack, %", list(evaluations), evaluations, accuracy)
    return Section(
        "attacks",
        "Attacks",
        words + tested(methods, "attacks") + notes(evaluations),
        tables=[table],
    )


def strength(methods: Methods) -> Section | None:
    """Return the error under FGSM by ε."""
    words = "Error in percent under one step of the fast gradient sign method; ε in {space}. "
    return _rising(methods, "strength", "FGSM", words)


def rising(methods: Methods) -> Section | None:
    """Return the error under APGD by ε."""
    words = (
        "Error in percent under APGD with one random start, at ε itself with all; ε in {space}. An "
        "image that is broken at some ε is broken at every greater one. "
    )
    return _rising(methods, "apgd", "APGD", words)


def _rising(methods: Methods, part: str, attack: str, words: str) -> Section | None:
    """Return the error under an attack by its ε, a curve for every method."""
    evaluations = evaluated(methods, part)
    if not evaluations:
        return None
    (by_name,) = evaluations.values()
    first = next(iter(by_name.values()))[0]
    risk = {
        name: [[100 - _known(accuracy) for accuracy in row["accuracy"]] for row in rows]
        for name, rows in by_name.items()
    }
    rows = [
        (
            f"ε = {eps:.4g}",
            [number([accuracies[k] for accuracies in seeds]) for seeds in risk.values()],
        )
        for k, eps in enumerate(first["eps"])
    ]
    attacked = f"Images: {first['images']:,}." if "images" in first else tested(methods, part)
    return Section(
        part,
        f"Error under {attack} by ε",
        words.format(space=first["space"]) + attacked + notes(evaluations),
        pictures=[
            (
                embedded(plots.strength_picture(by_name, title="", attack=attack)),
                f"Error under {attack} against ε for every method.",
            )
        ],
        numbers=[Grid(f"Error under {attack}, %", list(risk), rows)],
    )


def _known(value: float | None) -> float:
    return math.nan if value is None else float(value)


def bounded(methods: Methods) -> Section | None:
    """Return the accuracy under APGD and Square, and what the checks for masking found."""
    evaluations = evaluated(methods, "robustness")
    if not evaluations:
        return None
    rows = [
        row
        for by_name in evaluations.values()
        for seed_rows in by_name.values()
        for row in seed_rows
    ]
    images = sorted({row["images"] for row in rows})
    first = next(row for row in rows if "steps" in row)
    words = (
        f"Accuracy in percent under APGD (Croce and Hein 2020), {first['steps']:,} steps and "
        f"{first.get('restarts', 1)} random starts, and Square (Andriushchenko et al. 2020), which "
        f"sees logits alone; ε = {_eps(rows):.4g} in {first['space']}. Each is an upper bound "
        f"of the accuracy under any attack. Without a bound on the change, nothing should survive. "
        f"Images: {', '.join(map(str, images))}; the interval is that of one run, averaged over "
        f"the seeds."
    )
    return Section(
        "robustness",
        "Robustness",
        words + notes(evaluations),
        tables=[
            by_method("Accuracy under attack, %", list(evaluations), evaluations, accuracy),
            _intervals(evaluations),
        ],
    )


def _eps(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the ε of the attacks."""
    return next(float(row["eps"]) for row in rows if row.get("eps") is not None)


def _intervals(evaluations: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Grid:
    """Return the ends of the intervals, averaged over the seeds; empty if some are not known."""
    methods = list(dict.fromkeys(name for by_name in evaluations.values() for name in by_name))
    rows = []
    for attack, by_name in evaluations.items():
        cells = []
        for name in methods:
            intervals = [(_known(row["low"]), _known(row["high"])) for row in by_name.get(name, ())]
            low, high = (
                map(fmean, zip(*intervals, strict=True)) if intervals else (math.nan, math.nan)
            )
            cells.append(Number("" if math.isnan(low) else f"{low:.1f} to {high:.1f}"))
        rows.append((attack, cells))
    return Grid("Its 95 % interval", methods, rows)


def accuracy(row: Mapping[str, Any]) -> float:
    """Return the accuracy of a row, NaN if it is not known."""
    return _known(row["accuracy"])


def deformations(methods: Methods) -> Section | None:
    """Return the accuracy on deformed images."""
    evaluations = evaluated(methods, "deformations")
    if not evaluations:
        return None
    return Section(
        "deformations",
        "Deformed images",
        "Accuracy on the deformed test set (the paper's Tables 4 and 9). "
        + tested(methods, "deformations"),
        pictures=[
            (
                embedded(plots.deformations_picture(evaluations, title="")),
                "Accuracy on deformed images for every method.",
            )
        ],
        numbers=[by_method("Accuracy, %", list(evaluations), evaluations, accuracy)],
    )
