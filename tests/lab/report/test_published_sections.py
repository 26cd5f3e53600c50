"""The sections on published test sets, from rows of evaluations made up here."""

from types import SimpleNamespace
from typing import Any

from manifold_mixup.lab.report.sections.published import corrupted, new_images


def methods(part: str, *rows: dict[str, Any]) -> Any:
    items = [SimpleNamespace(evaluation={part: list(of)}, examples={part: 7}) for of in rows]
    return {"plain": items[:2], "mixed": items[2:]}


def test_extra_corruptions_stand_apart_from_the_mean():
    def rows(shift: float) -> list[dict[str, Any]]:
        errors = [10 * k + shift for k in range(1, 6)]
        common = {"error": 30 + shift, "errors": errors, "images": 10_000}
        kinds = [("fog", {"extra": False}), ("spatter", {"extra": True}), ("mCE", {})]
        return [{"name": name, **common, **more} for name, more in kinds]

    section = corrupted(methods("cifar-c", rows(0), rows(2), rows(4)))
    usual, by_severity, extra = section.tables
    assert [name for name, _ in usual.rows] == ["fog", "mCE"]
    assert [name for name, _ in extra.rows] == ["spatter"]
    assert [cell.text for cell in dict(usual.rows)["mCE"]] == ["31.00 ± 1.41", "34.00"]
    assert [cell.text for cell in dict(by_severity.rows)["severity 5"]] == ["51.00 ± 1.41", "54.00"]
    assert "Images at each severity: 10,000." in section.words


def test_new_images_have_their_number():
    row = {"name": "v6", "error": 12.5, "error_low": 11.0, "error_high": 14.0, "images": 2000}
    section = new_images(methods("cifar-10.1", [row]))
    (table,) = section.tables
    assert [(name, cells[0].text) for name, cells in table.rows] == [("v6, 2,000 images", "12.50")]
    assert corrupted(methods("cifar-10.1", [row])) is None
    assert new_images(methods("cifar-c", [row])) is None
