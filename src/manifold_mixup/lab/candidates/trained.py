"""Runs of a task, trained one after another, each kept in the task's file as it finishes."""

import json
import math
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from manifold_mixup.lab.candidates.draws import Purpose
from manifold_mixup.lab.candidates.registered import Candidate, Trial
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import Scores
from manifold_mixup.lab.recipes.recipe import identity
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.training.loop import train

Job = tuple[str, Trial, int]
"""A way, its settings, and a seed."""
Row = dict[str, Any]
METRICS = ("error", "nll", "ece", "brier", "rmse", "r2")


def read(path: Path) -> list[Row]:
    """Return the finished runs in a file, none if there is no such file."""
    if not path.exists():
        return []
    rows: list[Row] = json.loads(path.read_text())["runs"]
    return rows


def find(rows: Iterable[Row], job: Job) -> Row | None:
    """Return the finished run of a job, or None."""
    way, trial, seed = job
    settings = _as_json(trial)
    return next(
        (r for r in rows if (r["way"], r["settings"], r["seed"]) == (way, settings, seed)), None
    )


def run_all(
    candidate: Candidate,
    jobs: Iterable[Job],
    purpose: Purpose,
    *,
    root: Path,
    path: Path,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = print,
) -> bool:
    """Train the jobs that a file does not have yet; return whether all of them are done.

    Args:
        candidate: the task.
        jobs: what to train, in this order.
        purpose: which draws of the task.
        root: the folder of the data sets.
        path: the file of the runs.
        should_stop: called before each run; if it returns True, no more are started.
        tell: called with a line about each run.

    """
    rows = read(path)
    draw = lru_cache(maxsize=2)(partial(candidate.draw, root, purpose))
    for job in jobs:
        if find(rows, job) is not None:
            continue
        if should_stop():
            return False
        rows.append(_row(candidate, job, draw(job[2])))
        _write(path, candidate, rows)
        tell(_line(candidate, rows[-1]))
    return True


def _row(candidate: Candidate, job: Job, data: Data) -> Row:
    way, trial, seed = job
    run = candidate.recipe(way, trial, seed)
    row: Row = {"way": way, "settings": _as_json(trial), "seed": seed}
    row |= {"data": provenance.fingerprint(data)[:16]}
    try:
        return row | _numbers(train(run, data)) | {"on": provenance.describe()}
    except FloatingPointError as error:
        return row | {"diverged": str(error), "on": provenance.describe()}


def _numbers(result: Result) -> Row:
    numbers: Row = {"last": _scores(result.last), "seconds": round(result.seconds, 2)}
    if result.run.every:
        numbers |= {"best": _scores(result.best), "best_epoch": result.best_epoch}
    return numbers | {"weights": result.weights[:16]}


def _scores(scores: Scores) -> dict[str, float]:
    values = {name: getattr(scores, name) for name in METRICS}
    return {name: round(value, 6) for name, value in values.items() if not math.isnan(value)}


def _as_json(trial: Trial) -> Row:
    """Return settings as JSON has them."""
    settings: Row = json.loads(json.dumps(dict(trial)))
    return settings


def _write(path: Path, candidate: Candidate, rows: list[Row]) -> None:
    about: Row = {"task": candidate.name, "about": candidate.about, "metric": candidate.metric}
    about |= {"without mixing": identity(candidate.plain)}
    files.writable_folder(path.parent)
    files.write_json(path, {**about, "runs": rows})


def _line(candidate: Candidate, row: Row) -> str:
    value = row.get("last", {}).get(candidate.metric, math.nan)
    words = ", ".join(f"{name} {setting}" for name, setting in row["settings"].items())
    return (
        f"{candidate.name}: {row['way']} ({words}), seed {row['seed']}: {candidate.metric} "
        f"{value:.4f}, {row.get('seconds', 0):.0f} s"
    )
