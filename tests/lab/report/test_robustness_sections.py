"""The sections on attacks, from rows of evaluations made up here."""

from types import SimpleNamespace
from typing import Any

import pytest

from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.sections.robustness import bounded, rising

SPENT = {"eps": 8 / 255, "space": "pixel space [0, 1]", "steps": 100, "restarts": 5, "images": 200}


def item(accuracy: float | None, curve: list[float | None], **more: str) -> Any:
    ends = {"low": None, "high": None} if accuracy is None else {"low": 1.0, "high": accuracy + 5}
    robustness = [
        {"name": "no attack", "accuracy": 80.0, "low": 70.0, "high": 85.0, "images": 200},
        {"name": "APGD", "accuracy": accuracy, **ends, **SPENT, **more},
    ]
    eps = [0.0, 0.5, 1.0]
    apgd = [{"name": "APGD", "accuracy": curve, **SPENT, "eps": eps, **more}]
    found = {"robustness": robustness, "apgd": apgd}
    return SimpleNamespace(evaluation=found, examples=dict.fromkeys(found, 10_000))


@pytest.fixture
def methods() -> Any:
    return {
        "plain": [item(10.0, [80.0, 30.0, 10.0]), item(20.0, [90.0, 50.0, 20.0])],
        "masked": [item(None, [80.0, None, None], note="the gradients are zero")],
    }


def test_accuracies_and_intervals_are_averaged_and_what_is_not_known_is_empty(methods):
    section = bounded(methods)
    accuracy, interval = section.tables
    assert accuracy.header == ["plain", "masked"]
    assert [cell.text for cell in dict(accuracy.rows)["APGD"]] == ["15.0 ± 7.1", "–"]
    assert [cell.text for cell in dict(interval.rows)["APGD"]] == ["1.0 to 20.0", ""]
    assert "masked: the gradients are zero" in section.words
    assert "ε = 0.03137 in pixel space [0, 1]" in section.words
    assert "100 steps and 5 random starts" in section.words
    assert "Images: 200;" in section.words


def test_the_curve_is_drawn_as_far_as_it_is_known(methods, monkeypatch):
    drawn = []
    draw = plots.strength_picture
    monkeypatch.setattr(
        plots, "strength_picture", lambda *a, **k: drawn.append((a, k)) or draw(*a, **k)
    )
    section = rising(methods)
    (grid,) = section.numbers
    assert [[cell.text for cell in cells] for _, cells in grid.rows] == [
        ["15.0 ± 7.1", "20.0"],
        ["60.0 ± 14.1", "–"],
        ["85.0 ± 7.1", "–"],
    ]
    assert drawn[0][1]["attack"] == "APGD"
    assert "masked: the gradients are zero" in section.words


def test_without_such_evaluations_there_is_no_section():
    nothing = {"plain": [SimpleNamespace(evaluation={}, examples={})]}
    assert bounded(nothing) is None
    assert rising(nothing) is None
