"""The sections of the report on what confidence is worth: calibration, selection, outliers."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from manifold_mixup.lab.evaluate import Reliability
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.section import (
    ByName,
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

_ERRORS: dict[str, tuple[str, int]] = {
    "temperatures": ("temperature, mean of the halves", 2),
    "nll": ("NLL, nats", 3),
    "ece": ("ECE, %", 2),
    "ece_if_calibrated": ("ECE of calibrated predictions, %", 2),
    "rms_gap": ("RMS gap, debiased, %", 2),
    "rms_low": ("RMS gap, 95 % interval from", 2),
    "rms_high": ("RMS gap, 95 % interval to", 2),
    "adaptive_ece": ("adaptive ECE, %", 2),
    "classwise_ece": ("classwise ECE, %", 2),
}
_SCORES = {
    "confidence": "greatest softmax",
    "entropy": "entropy",
    "energy": "energy",
    "distance": "distance to the training set",
}


def calibration(methods: Methods) -> Section | None:
    """Return calibration errors before and after temperature scaling."""
    found = evaluated(methods, "calibration")
    if not found:
        return None
    bins = {name: of for name, by_name in found.items() if (of := _bins(by_name))}
    return Section(
        "calibration",
        "Calibration before and after temperature scaling",
        "The logits of each half of the test set are divided by the temperature that is best for "
        "the other half. The ECE of calibrated predictions is what the ECE would be on average if "
        "predictions with the same confidences were calibrated: it is above zero, since the "
        "accuracies in bins are random. The RMS gap is the root mean square of the gaps between "
        "confidence and accuracy in bins without this bias; if it is negative, no gap can be seen. "
        "Its interval is that of one run, averaged over the seeds. "
        + tested(methods, "calibration")
        + notes(found),
        pictures=[
            (
                embedded(plots.reliability_picture(of, title=name)),
                f"Reliability diagram {name}: accuracy against confidence for every method.",
            )
            for name, of in bins.items()
        ],
        numbers=[
            bins_table(f"Correct predictions in each bin {name}", of) for name, of in bins.items()
        ],
        tables=[_errors(name, by_name) for name, by_name in found.items()],
    )


def _bins(by_name: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[Reliability]]:
    """Return the bins of each method's runs that have some."""
    bins = {
        name: [Reliability(**row["reliability"]) for row in rows if "reliability" in row]
        for name, rows in by_name.items()
    }
    return {name: of for name, of in bins.items() if of}


def bins_table(caption: str, bins: Mapping[str, Sequence[Reliability]]) -> Grid:
    """Return the accuracy in each bin of confidence, over all runs of each method."""
    rows = []
    total = len(next(iter(bins.values()))[0].count)
    for k in range(total):
        cells = []
        for of in bins.values():
            count = sum(one.count[k] for one in of)
            right = sum(one.count[k] * one.accuracy[k] for one in of)
            cells.append(Number(f"{100 * right / count:.1f} % of {count:,}" if count else "none"))
        rows.append((f"confidence {k / total:.2f} to {(k + 1) / total:.2f}", cells))
    return Grid(caption, list(bins), rows)


def _errors(title: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return a table with a row per error and a column per method."""
    rows = [
        (
            said,
            [
                number([_mean(row[key]) for row in of if key in row], digits)
                for of in by_name.values()
            ],
        )
        for key, (said, digits) in _ERRORS.items()
        if any(key in row for of in by_name.values() for row in of)
    ]
    return Grid(f"Errors {title}", list(by_name), rows)


def _mean(value: float | list[float]) -> float:
    return fmean(value) if isinstance(value, list) else value


def selective(methods: Methods) -> Section | None:
    """Return the risk-coverage curves."""
    found = evaluated(methods, "selective")
    if not found:
        return None
    (by_name,) = found.values()
    return Section(
        "selective",
        "If only confident predictions are made",
        "The error in percent among the most confident predictions, by their share (risk by "
        "coverage). AURC is the area under this curve; the excess is what a better order of the "
        "same predictions would save. " + tested(methods, "selective"),
        pictures=[
            (
                embedded(plots.risk_picture(by_name, title="")),
                "Error among the most confident predictions against their share, for every method.",
            )
        ],
        numbers=[_errors_by_coverage(by_name)],
        tables=[_areas(by_name)],
    )


def _errors_by_coverage(by_name: dict[str, list[Any]]) -> Grid:
    """Return the error of each method among its most confident predictions, by their share."""
    shares = next(iter(by_name.values()))[0]["coverage"]
    return Grid(
        "Error by coverage, %",
        list(by_name),
        [
            (
                f"{100 * share:.0f} %",
                [number([row["risk"][k] for row in of], 2) for of in by_name.values()],
            )
            for k, share in enumerate(shares)
            if k % 2
        ],
    )


def _areas(by_name: dict[str, list[Any]]) -> Grid:
    """Return the areas under the risk-coverage curves."""
    areas = {"AURC": "aurc", "of the best order": "best_aurc", "excess": "excess_aurc"}
    return Grid(
        "Area under the risk-coverage curve, %",
        list(by_name),
        [
            (words, [number([row[key] for row in of], 2) for of in by_name.values()])
            for words, key in areas.items()
        ],
    )


def separation(methods: Methods) -> Section | None:
    """Return how well scores separate outliers from the test set."""
    found = evaluated(methods, "outliers")
    if not found:
        return None
    shifted = {name: of for name, of in found.items() if _kinds(of) == {"shifted"}}
    others = {name: of for name, of in found.items() if name not in shifted}
    words = (
        "How well scores of the model separate the test set from outliers: other data sets, "
        "noise and deformed test images. The paper claims that networks without manifold mixup "
        "are often confident and wrong on such inputs. Near and far are the sets of OpenOOD; "
        "shifted images still show known classes. FPR95 is the share of outliers above the score "
        "that 95 % of the test set reach. " + tested(methods, "outliers") + notes(found)
    )
    return Section(
        "outliers",
        "Outliers",
        words,
        tables=_separations(others or shifted),
        further=_separations(shifted) if others else (),
        about_further="The same for deformed test images",
    )


def _separations(found: ByName) -> list[Grid]:
    """Return two tables for each score: how well it separates each set of outliers."""
    return [
        by_method(
            caption.format(said),
            [_named(name, by_name) for name, by_name in known.items()],
            known,
            lambda row, score=score, key=key: float(row[score][key]),  # type: ignore[misc]
        )
        for score, said in _SCORES.items()
        if (known := _known(found, score))
        for key, caption in (
            ("auroc", "AUROC of the {}, %; 50 is guessing"),
            ("fpr95", "FPR95 of the {}, %; low is good"),
        )
    ]


def _known(found: ByName, key: str) -> ByName:
    """Return the rows with a key: older evaluations and some models lack it."""
    kept = {
        name: {method: [row for row in of if row.get(key) is not None] for method, of in at.items()}
        for name, at in found.items()
    }
    return {name: at for name, at in kept.items() if any(at.values())}


def _named(name: str, by_name: Mapping[str, list[dict[str, Any]]]) -> str:
    """Return the name of a set of outliers, with whether it is near, far or shifted."""
    kinds = _kinds(by_name)
    return f"{name} ({', '.join(sorted(map(str, kinds)))})" if kinds else name


def _kinds(by_name: Mapping[str, list[dict[str, Any]]]) -> set[str | None]:
    return {row.get("kind") for of in by_name.values() for row in of} - {None}
