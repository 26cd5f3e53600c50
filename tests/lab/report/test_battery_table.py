"""The tables of `evaluate`: numbers beside each other, and what could not be computed."""

import io
from typing import Any

import pytest
from rich.console import Console

from manifold_mixup.lab.report.battery_table import battery_table, notes


def shown(part: str, rows: list[dict[str, Any]]) -> str:
    console = Console(width=80, file=io.StringIO())
    with console.capture() as printed:
        console.print(battery_table(part, rows))
    return printed.get()


ERRORS = {
    "nll": 0.9134,
    "ece": 6.892,
    "ece_if_calibrated": 1.532,
    "adaptive_ece": 6.893,
    "rms_gap": 8.705,
    "rms_low": 7.308,
    "rms_high": 10.34,
    "classwise_ece": 1.757,
    "reliability": {"count": [1], "confidence": [0.5], "accuracy": [0.5]},
}


def test_calibration_has_a_column_before_and_after():
    after = {"fitted": "twofold", "temperatures": [1.348, 1.426], **ERRORS, "nll": 0.879}
    text = shown(
        "calibration", [{"name": "before scaling", **ERRORS}, {"name": "after scaling", **after}]
    )
    lines = [line.split("  ") for line in text.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["name", "before scaling", "after scaling"] in cells
    assert ["temperatures of the halves", "1.348, 1.426"] in cells
    assert ["NLL, nats", "0.9134", "0.879"] in cells
    assert ["95 % interval, to", "10.34", "10.34"] in cells


@pytest.mark.parametrize("part", ["calibration", "outliers"])
def test_what_could_not_be_computed_is_said_once_and_not_in_the_table(part):
    note = "no numbers: all 40 predictions are right. Test more examples."
    found = {"kind": "far", "confidence": {"auroc": 75.04, "fpr95": 9.0}} | ERRORS
    rows = [{"name": "one", **found}, *({"name": k, **found, "note": note} for k in "ab")]
    assert notes(rows) == [note]
    assert "note" not in shown(part, rows)
    assert "40" not in shown(part, rows)


def test_outliers_have_two_numbers_for_each_score():
    scores = {
        name: {"auroc": 75.04 + k, "fpr95": 9.0}
        for k, name in enumerate(("confidence", "entropy", "energy", "distance"))
    }
    text = shown("outliers", [{"name": "zoom out 180 %", "kind": "shifted", **scores}])
    assert [" ".join(line.split()) for line in text.splitlines()[1:]] == [
        "name kind confidence entropy energy distance",
        "zoom out 180 % shifted 75.0 9.0 76.0 9.0 77.0 9.0 78.0 9.0",
    ]


def test_risk_at_some_coverages():
    row = {"name": "test set", "aurc": 13.39, "best_aurc": 6.508, "excess_aurc": 6.887}
    curve = {"coverage": [0.05, 0.5, 0.9, 1.0], "risk": [1.0, 12.4, 30.17, 33.83]}
    text = shown("selective", [row | curve])
    assert [" ".join(line.split()) for line in text.splitlines()[1:]] == [
        "name 50 % 90 % 100 % AURC best excess",
        "test set 12.4 30.17 33.83 13.39 6.508 6.887",
    ]


def test_robustness_has_intervals_and_what_was_spent():
    allowed = {"eps": 8 / 255, "space": "pixel space [0, 1]", "steps": 100}
    known = {"accuracy": 12.5, "low": 8.25, "high": 17.9, "survived": 25, "images": 200}
    blind = {"accuracy": None, "low": None, "high": None, "survived": 25, "images": 200}
    rows = [
        {"name": "APGD", **blind, "note": "the gradients are zero", **allowed, "restarts": 5},
        {"name": "Square", **known, "eps": 8 / 255, "queries": 1000},
        {"name": "APGD and Square", **known, **allowed, "restarts": 5, "queries": 1000},
        {"name": "APGD without a bound", **known, **allowed, "eps": None},
    ]
    lines = [" ".join(line.split()) for line in shown("robustness", rows).splitlines()]
    assert lines[0] == "robustness, accuracy % under attack"
    assert lines[1:] == [
        "name accuracy 95 % interval images ε budget",
        "APGD not known 200 0.03137 100 steps x 5",
        "Square 12.5 8.2 to 17.9 200 0.03137 1,000 queries",
        "APGD and Square 12.5 8.2 to 17.9 200 0.03137 both",
        "APGD without a bound 12.5 8.2 to 17.9 200 100 steps",
    ]
    assert notes(rows) == ["the gradients are zero"]


def test_published_sets_have_severities_and_intervals():
    kind = {"error": 30.0, "errors": [10.0, 20.0, 30.0, 40.0, 50.0], "images": 10_000}
    rows = [{"name": "fog", **kind, "extra": False}, {"name": "spatter", **kind, "extra": True}]
    lines = [" ".join(line.split()) for line in shown("cifar-c", rows).splitlines()]
    assert lines[1:] == [
        "name mean 1 2 3 4 5 images",
        "fog 30 10 20 30 40 50 10000",
        "spatter (extra) 30 10 20 30 40 50 10000",
    ]
    new = {"name": "v6", "error": 12.5, "error_low": 11.1, "error_high": 14.0, "images": 2000}
    line = shown("cifar-10.1", [new]).splitlines()[-1]
    assert " ".join(line.split()) == "v6 12.5 11.1 to 14.0 2000"
