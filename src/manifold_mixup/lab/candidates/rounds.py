"""The two rounds of a task: settings are searched and frozen, then confirmed with fresh seeds."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from manifold_mixup.lab.candidates import trained
from manifold_mixup.lab.candidates.registered import SEEDS, Candidate, Trial
from manifold_mixup.lab.candidates.trained import Job, Row
from manifold_mixup.lab.runs import files

FROZEN = "frozen.json"
"""The file with the settings of every task whose development is done."""

ShouldStop = Callable[[], bool]


def develop(
    candidate: Candidate, *, root: Path, out: Path, should_stop: ShouldStop = lambda: False
) -> bool:
    """Try the settings of every way on development draws, and freeze the best of each.

    The n-th trials of all ways come before the next ones, so that the ways have had the same budget
    at any time.

    Args:
        candidate: the task.
        root: the folder of the data sets.
        out: the folder of the results.
        should_stop: called before each run; if it returns True, no more are started.

    Returns:
        Whether all trials are done; only then are settings frozen.

    Raises:
        ValueError: the settings are frozen already, and others are the best now; or all trials of
            a way diverged.
    """
    if candidate.settings_of:
        return True
    path = out / f"{candidate.name}-development.json"
    jobs = _development_jobs(candidate)
    if not trained.run_all(
        candidate, jobs, "development", root=root, path=path, should_stop=should_stop
    ):
        return False
    freeze(candidate, trained.read(path), out / FROZEN)
    return True


def confirm(
    candidate: Candidate, *, root: Path, out: Path, should_stop: ShouldStop = lambda: False
) -> bool:
    """Train every way with its frozen settings on fresh draws; return whether all seeds are done.

    All ways of a seed come before the next seed. A run that is in the file is not repeated.

    Args:
        candidate: the task.
        root: the folder of the data sets.
        out: the folder of the results, with the frozen settings.
        should_stop: called before each run; if it returns True, no more are started.

    Raises:
        ValueError: no settings are frozen for this task.
    """
    name = candidate.settings_of or candidate.name
    frozen = frozen_settings(out / FROZEN).get(name)
    if frozen is None:
        raise ValueError(
            f"no settings are frozen for {name} in {out / FROZEN}. First: develop {name}"
        )
    jobs = ((way, frozen[way], seed) for seed in SEEDS for way in candidate.trials)
    path = out / f"{candidate.name}.json"
    return trained.run_all(
        candidate, jobs, "confirmation", root=root, path=path, should_stop=should_stop
    )


def frozen_settings(path: Path) -> dict[str, dict[str, Trial]]:
    """Return the frozen settings by task and way; none if there is no such file."""
    stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return {
        task: {way: _with_tuples(settings) for way, settings in ways.items()}
        for task, ways in stored.items()
    }


def freeze(candidate: Candidate, rows: list[Row], path: Path) -> None:
    """Write the best settings of each way into the file of frozen ones.

    The best have the lowest mean of the primary metric over the development draws, at the last
    epoch. A trial with a run that diverged is out.

    Raises:
        ValueError: others are frozen already, or all trials of a way diverged.
    """
    chosen = {way: best(candidate, way, rows) for way in candidate.trials}
    frozen = frozen_settings(path)
    if frozen.get(candidate.name, chosen) != chosen:
        raise ValueError(
            f"other settings are frozen for {candidate.name} in {path}. A task is confirmed once, "
            f"with the settings that were frozen before."
        )
    files.write_json(path, frozen | {candidate.name: chosen})


def best(candidate: Candidate, way: str, rows: list[Row]) -> Trial:
    """Return the best settings of a way."""
    values = {n: score(candidate, way, n, rows) for n in range(len(candidate.trials[way]))}
    finished = {n: value for n, value in values.items() if value is not None}
    if not finished:
        raise ValueError(f"all trials of {way} diverged in {candidate.name}.")
    return candidate.trials[way][min(finished, key=finished.__getitem__)]


def score(candidate: Candidate, way: str, number: int, rows: list[Row]) -> float | None:
    """Return the mean metric of a trial over its draws; None if a run diverged or is missing."""
    trial = candidate.trials[way][number]
    rows_of_trial = [trained.find(rows, (way, trial, seed)) for seed in range(candidate.tries)]
    if any(row is None or "last" not in row for row in rows_of_trial):
        return None
    return fmean(row["last"][candidate.metric] for row in rows_of_trial if row is not None)


def _development_jobs(candidate: Candidate) -> Iterator[Job]:
    for number in range(len(next(iter(candidate.trials.values())))):
        for way, trials in candidate.trials.items():
            for seed in range(candidate.tries):
                yield way, trials[number], seed


def _with_tuples(settings: dict[str, Any]) -> Trial:
    """Return settings with tuples, which JSON has as lists."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
