"""The section of the report on how well outliers are separated from the test set."""

from collections.abc import Mapping
from typing import Any

from manifold_mixup.lab.report.sections.section import (
    ByName,
    Grid,
    Methods,
    Section,
    by_method,
    evaluated,
    notes,
    tested,
)

_SCORES = {
    "confidence": "greatest softmax",
    "entropy": "entropy",
    "energy": "energy",
    "distance": "distance to the training set",
}


def outliers(methods: Methods) -> Section | None:
    """Return how well scores separate outliers from the test set."""
    evaluations = evaluated(methods, "outliers")
    if not evaluations:
        return None
    shifted = {
        name: by_name for name, by_name in evaluations.items() if _kinds(by_name) == {"shifted"}
    }
    others = {name: by_name for name, by_name in evaluations.items() if name not in shifted}
    words = (
        "How well scores of the model separate the test set from outliers: other data sets, "
        "noise and deformed test images. The paper claims that networks without manifold mixup "
        "are often confident and wrong on such inputs. Near and far are the sets of OpenOOD; "
        "shifted images still show known classes. FPR95 is the share of outliers above the score "
        "that 95 % of the test set reach. " + tested(methods, "outliers") + notes(evaluations)
    )
    return Section(
        "outliers",
        "Outliers",
        words,
        tables=_separations(others or shifted),
        further=_separations(shifted) if others else (),
        about_further="The same for deformed test images",
    )


def _separations(evaluations: ByName) -> list[Grid]:
    """Return two tables for each score: how well it separates each set of outliers."""
    return [
        by_method(
            caption.format(words),
            [_named(name, by_name) for name, by_name in with_score.items()],
            with_score,
            lambda row, score=score, key=key: float(row[score][key]),  # type: ignore[misc]
        )
        for score, words in _SCORES.items()
        if (with_score := _with_key(evaluations, score))
        for key, caption in (
            ("auroc", "AUROC of the {}, %; 50 is guessing"),
            ("fpr95", "FPR95 of the {}, %; low is good"),
        )
    ]


def _with_key(evaluations: ByName, key: str) -> ByName:
    """Return the rows with a key: older evaluations and some models lack it."""
    selected = {
        name: {
            method: [row for row in rows if row.get(key) is not None]
            for method, rows in by_name.items()
        }
        for name, by_name in evaluations.items()
    }
    return {name: by_name for name, by_name in selected.items() if any(by_name.values())}


def _named(name: str, by_name: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return the name of a set of outliers, with whether it is near, far or shifted."""
    kinds = _kinds(by_name)
    return f"{name} ({', '.join(sorted(map(str, kinds)))})" if kinds else name


def _kinds(by_name: Mapping[str, list[dict[str, Any]]]) -> set[str | None]:
    return {row.get("kind") for rows in by_name.values() for row in rows} - {None}
