"""The files of a table: its Markdown, its JSON, its picture."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from manifold_mixup.lab.commands.reproduce.reproduction import Reproduction
from manifold_mixup.lab.evaluate import UNITS
from manifold_mixup.lab.paper.numbers import EvaluatedRun, Line, Runs, lines
from manifold_mixup.lab.report.paper_table import paper_table
from manifold_mixup.lab.runs import files, provenance


def json_head(reproduction: Reproduction) -> dict[str, Any]:
    """Return the head of the JSON file: the table, its scale, the code and the machine."""
    return {
        "format": 1,
        "table": reproduction.table.name,
        "title": reproduction.title,
        "scale": asdict(reproduction.scale),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance.describe(),
        "workers": reproduction.workers,
        "units": UNITS,
        "data": {data.name: provenance.fingerprint(data) for data, _ in reproduction.groups},
    }


def write_table(
    reproduction: Reproduction,
    head: dict[str, Any],
    runs: Runs,
    seconds: float,
) -> Path:
    """Write the current table; called after each run, so that no finished run is lost."""
    table = reproduction.table
    table_lines, path = lines(table, runs), reproduction.out / f"{table.name}.md"
    count = sum(len(by_seed) for by_seed in runs.values())
    content = head | {
        "complete": count == len(reproduction.runs),
        "wall_seconds": seconds,
        "rows": [
            _row(line, runs.get(line.row.run, {}), curves=table.picture == "curves")
            for line in table_lines
            if line.row.run
        ],
    }
    files.write_json(path.with_suffix(".json"), content)
    text = (
        f"# {reproduction.title}\n\n{paper_table(table, table_lines)}\n{_origin(content, runs)}\n"
    )
    files.write(path, text.encode())
    return path


def _row(line: Line, runs: Mapping[int, EvaluatedRun], *, curves: bool) -> dict[str, Any]:
    return {
        "label": line.row.label,
        "base": line.row.base,
        "paper": dict(line.row.paper),
        "ours": {
            when: {key: asdict(cell) for key, cell in cells.items()}
            for when, cells in line.cells.items()
        },
        "runs": [_summary(runs[seed], curve=curves) for seed in sorted(runs)],
    }


def _summary(run: EvaluatedRun, *, curve: bool) -> dict[str, Any]:
    """Return a run's result and evaluation, with its curve only if the table shows curves.

    The units are the same for all runs, and stand once at the head of the file.
    """
    result = asdict(run.result)
    if not curve:
        del result["curve"]
    evaluation = {
        when: {name: test for name, test in tests.items() if name != "units"}
        for when, tests in run.evaluation.items()
    }
    return result | {"evaluation": evaluation}


def _origin(content: Mapping[str, Any], runs: Runs) -> str:
    """Return the line below the table: runs, training time, machine, version and commit."""
    machine, versions = content["machine"], content["versions"]
    seconds = [run.result.seconds for by_seed in runs.values() for run in by_seed.values()]
    part = "" if content["complete"] else "NOT COMPLETE. "
    return (
        f"{part}{len(seconds)} run{'' if len(seconds) == 1 else 's'}, "
        f"{sum(seconds) / 3600:.2f} hours of training in total, "
        f"{max(seconds) / 60:.1f} minutes for the longest run; "
        f"{machine['cpu']}, {machine['cores']} cores, "
        f"PyTorch {versions['torch']}; commit {content['git'] or 'unknown'}."
    )


def draw(reproduction: Reproduction, runs: Runs) -> Sequence[Path]:
    """Draw and write the picture of the table, if it has one."""
    table, out = reproduction.table, reproduction.out
    if not table.picture:
        return ()
    # matplotlib takes a second to import
    from manifold_mixup.lab.report import paper_picture, plots

    data = {group[0].data: data for data, group in reproduction.groups}
    picture = paper_picture.draw(table, runs, data, out / "runs", title=reproduction.title)
    return plots.save(picture, out / table.name)
