"""The sections of the report on confidence: calibration, selection, inputs off the data."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from manifold_mixup.lab.evaluate import Reliability
from manifold_mixup.lab.evaluate.statistics import spread
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
from manifold_mixup.lab.report.table import spread_text

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


def reliability(methods: Methods) -> Section:
    """Return the reliability diagram of the last epoch."""
    bins = {
        name: [item.result.last.reliability for item in items] for name, items in methods.items()
    }
    ece = [
        (name, [Number(spread_text(spread([item.result.last.ece for item in items]), 2))])
        for name, items in methods.items()
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
            bins_table("Correct predictions in each bin", bins),
        ],
    )


def calibration(methods: Methods) -> Section | None:
    """Return calibration errors before and after temperature scaling."""
    evaluations = evaluated(methods, "calibration")
    if not evaluations:
        return None
    bins = {name: runs for name, by_name in evaluations.items() if (runs := _bins(by_name))}
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
        + notes(evaluations),
        pictures=[
            (
                embedded(plots.reliability_picture(runs, title=name)),
                f"Reliability diagram {name}: accuracy against confidence for every method.",
            )
            for name, runs in bins.items()
        ],
        numbers=[
            bins_table(f"Correct predictions in each bin {name}", runs)
            for name, runs in bins.items()
        ],
        tables=[_errors(name, by_name) for name, by_name in evaluations.items()],
    )


def _bins(by_name: Mapping[str, list[dict[str, Any]]]) -> dict[str, list[Reliability]]:
    """Return the bins of each method's runs that have some."""
    bins = {
        name: [Reliability(**row["reliability"]) for row in rows if "reliability" in row]
        for name, rows in by_name.items()
    }
    return {name: runs for name, runs in bins.items() if runs}


def bins_table(caption: str, bins: Mapping[str, Sequence[Reliability]]) -> Grid:
    """Return the accuracy in each bin of confidence, over all runs of each method."""
    rows = []
    total = len(next(iter(bins.values()))[0].count)
    for k in range(total):
        cells = []
        for runs in bins.values():
            count = sum(run.count[k] for run in runs)
            right = sum(run.count[k] * run.accuracy[k] for run in runs)
            cells.append(Number(f"{100 * right / count:.1f} % of {count:,}" if count else "none"))
        rows.append((f"confidence {k / total:.2f} to {(k + 1) / total:.2f}", cells))
    return Grid(caption, list(bins), rows)


def _errors(title: str, by_name: Mapping[str, list[dict[str, Any]]]) -> Grid:
    """Return a table with a row per error and a column per method."""
    rows = [
        (
            label,
            [
                number([_mean(row[key]) for row in seed_rows if key in row], digits)
                for seed_rows in by_name.values()
            ],
        )
        for key, (label, digits) in _ERRORS.items()
        if any(key in row for seed_rows in by_name.values() for row in seed_rows)
    ]
    return Grid(f"Errors {title}", list(by_name), rows)


def _mean(value: float | list[float] | None) -> float | None:
    return fmean(value) if isinstance(value, list) else value


def selective(methods: Methods) -> Section | None:
    """Return the risk-coverage curves."""
    evaluations = evaluated(methods, "selective")
    if not evaluations:
        return None
    (by_name,) = evaluations.values()
    return Section(
        "selective",
        "If only confident predictions are made",
        "The error in percent among the most confident predictions, by their share (risk by "
        "coverage). AURC is the area under this curve; the excess is what a better order of the "
        "same predictions would save. " + tested(methods, "selective") + notes(evaluations),
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
                [
                    number([row["risk"][k] for row in seed_rows], 2)
                    for seed_rows in by_name.values()
                ],
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
            (words, [number([row[key] for row in seed_rows], 2) for seed_rows in by_name.values()])
            for words, key in areas.items()
        ],
    )


def off_data(methods: Methods) -> Section | None:
    """Return the confidence on inputs off the data."""
    evaluations = evaluated(methods, "confidence")
    if not evaluations:
        return None
    grids = [
        by_method(
            "Mean of the greatest softmax", list(evaluations), evaluations, _greatest, digits=3
        ),
        by_method("% of the inputs where it is above 0.95", list(evaluations), evaluations, _sure),
    ]
    words = (
        "The confidence on inputs off the data: uniform in the box of the training inputs, and "
        "farther from every one of them than 99 % of the test inputs are. The paper claims that "
        "it falls with manifold mixup. "
    )
    words += tested(methods, "confidence") + notes(evaluations)
    return Section("confidence", "Confidence", words, tables=grids)


def _greatest(row: Mapping[str, Any]) -> float:
    return math.nan if row["greatest"] is None else float(row["greatest"])


def _sure(row: Mapping[str, Any]) -> float:
    return math.nan if row["sure"] is None else float(row["sure"])
