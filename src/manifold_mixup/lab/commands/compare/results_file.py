"""What results.json holds: the comparison, the machine, the rows of the table, every run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from manifold_mixup.lab.commands.compare.comparison import Comparison
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.report.power import smallest_differences
from manifold_mixup.lab.report.summary import Row, only_means, summarise
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs.result import Result


def json_head(comparison: Comparison) -> dict[str, Any]:
    """Return the head of results.json: the comparison, the code and the machine."""
    data = comparison.data
    return {
        "format": 1,
        "title": comparison.title,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance.describe(),
        "workers": comparison.workers,
        "data": {
            "name": data.name,
            "training_examples": len(data.x),
            "test_examples": len(data.x_test),
            "classes": data.classes,
            "sha256": provenance.fingerprint(data),
            **_fingerprints(comparison),
        },
        **_units(data),
    }


def _fingerprints(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Return the fingerprint of each seed's draw, if there are several."""
    draws = {name: provenance.fingerprint(data) for name, data in comparison.draws.items()}
    return {"draws": draws} if draws else {}


def _units(data: Data) -> dict[str, Any]:
    """Return the units of the measures, and the attack of classifiers."""
    if data.regression:
        return {"units": {"rmse": "units of the targets", "r2": "1 at best", "seconds": "s"}}
    return {
        "attack": {"name": "FGSM", "eps": data.eps, "space": data.space, "bounds": data.bounds},
        "units": {
            "error": "%",
            "nll": "nats",
            "ece": "%",
            "fgsm_accuracy": "%",
            "fgsm_unmoved": "% of the examples predicted right, which FGSM leaves as they are",
            "confidence": "mean of the greatest softmax on inputs off the data, 0 to 1",
            "outside at LAYER": "% of a class's variance, outside its first direction",
            "within at LAYER": "% of the variance of all states, within classes",
            "s1 at LAYER": "% of the sum of a class's singular values, not centred",
            "seconds": "s",
        },
    }


def origin(head: Mapping[str, Any]) -> str:
    """Return the machine, the versions, the day and the commit in a line."""
    machine = head["machine"]
    return (
        f"{machine['cpu']} ({machine['instructions']}), {machine['cores']} cores; PyTorch "
        f"{head['versions']['torch']}, Python {head['python']}; {head['started'][:10]}, commit "
        f"{head['git'] or 'unknown'}."
    )


def rows_of(comparison: Comparison, results: Sequence[Result]) -> list[Row]:
    """Return the rows of the table; of a smoke test, without spreads."""
    rows = summarise(results, comparison.methods)
    return only_means(rows) if comparison.smoke else rows


def write_results(
    comparison: Comparison, head: dict[str, Any], results: Sequence[Result], seconds: float
) -> None:
    """Write all finished runs; called after each run, so that no finished run is lost."""
    rows = rows_of(comparison, results)
    content = head | {
        "complete": len(results) == len(comparison.runs),
        "smoke": comparison.smoke,
        "wall_seconds": seconds,
        "summary": [asdict(row) for row in rows],
        "power": smallest_differences(rows) if rows else {},
        "runs": [asdict(result) for result in results],
    }
    files.write_json(comparison.out / "results.json", content)
