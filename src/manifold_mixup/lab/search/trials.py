"""The search itself: rounds of trials, until every way has had its budget."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeAlias

from manifold_mixup.lab.data.validation import Split
from manifold_mixup.lab.evaluate.measures import BRIER, ERROR, NLL, RMSE, Measure
from manifold_mixup.lab.launch.callbacks import Source
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.folder import folder_name
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.search.sampling import Sampler, distributions, next_settings
from manifold_mixup.lab.search.space import Settings, Space, applied, settings_of
from manifold_mixup.lab.search.study import StudyFile, Trial
from manifold_mixup.lab.seeds import seeded

METRICS: Mapping[str, Measure] = {measure.key: measure for measure in (ERROR, NLL, BRIER, RMSE)}
"""The metrics by which settings can be chosen; lower is better in all."""

SCORES = ("error", "nll", "ece", "fgsm_accuracy", "top5_error", "brier", "rmse", "r2")
"""The scores that a trial keeps for each seed."""

Outcome: TypeAlias = "Result | str"
"""The result of a run, or the reason why it diverged."""


@dataclass(frozen=True)
class Way:
    """A way of mixing that is searched.

    Attributes:
        name: its name on the command line.
        run: its recipe, with known layers.
        space: its search space.
        trials: the number of its trials.
    """

    name: str
    run: Recipe
    space: Space
    trials: int

    @property
    def start(self) -> Settings:
        """The recipe's own settings."""
        return settings_of(self.run)


@dataclass(frozen=True)
class Search:
    """What is searched, and how.

    Attributes:
        ways: the ways, no mixup first.
        split: the training and validation examples of a seed.
        sampler: how settings are drawn.
        metric: the metric, averaged over the seeds.
        seeds: the number of seeds of a trial.
        seed: the seed of the draws.
        together: the number of trials of each way that are drawn at once.
    """

    ways: tuple[Way, ...]
    split: Split
    sampler: Sampler
    metric: Measure
    seeds: int
    seed: int
    together: int = 1


class PendingTrial(NamedTuple):
    """A trial that is not finished: its way, its number and its settings."""

    way: Way
    number: int
    settings: Settings

    def runs(self, seeds: int) -> list[Recipe]:
        """Return its runs."""
        run = applied(self.way.run, self.settings)
        return [replace(run, seed=seed) for seed in range(seeds)]


Train = Callable[[Sequence[Recipe], Source, Path, str], Mapping[Recipe, Outcome]]
"""Trains recipes on a source in a folder; the last argument is a title for the progress."""


def trials(
    search: Search, study: StudyFile, *, folder: Path, train: Train
) -> Iterator[PendingTrial]:
    """Train the missing trials of all ways, and yield each once it is in the study.

    A round has the next trials of every way, so that the ways have had the same budget at any
    time. No trial is stopped early: mixing learns more slowly and gains late, so a comparison of
    half-trained networks would favour no mixup. A trial with a run that diverged counts as failed,
    and uses up its part of the budget.

    Args:
        search: what is searched.
        study: the file of the trials.
        folder: the folder of runs that are under way. Those of a finished trial are deleted.
        train: trains the runs.
    """
    while pending := _round(search, study):
        runs = list(dict.fromkeys(run for trial in pending for run in trial.runs(search.seeds)))
        first, last = (extreme(trial.number for trial in pending) + 1 for extreme in (min, max))
        numbers = f"trial {first}" if first == last else f"trials {first} to {last}"
        title = f"{numbers} of {max(way.trials for way in search.ways)}"
        outcome_of = train(runs, search.split.ready(range(search.seeds)), folder, title)
        for trial in pending:
            outcomes = [outcome_of[run] for run in trial.runs(search.seeds)]
            space = distributions(trial.way.space, grid=search.sampler == "grid")
            study.add(trial.way.name, _trial_of(trial.settings, outcomes, search.metric), space)
            yield trial
        for run in runs:
            shutil.rmtree(folder / folder_name(run), ignore_errors=True)


def best(study: StudyFile, way: str) -> int | None:
    """Return the number of the trial with the lowest value, or None if all failed."""
    values = {
        n: trial.value for n, trial in enumerate(study.trials(way)) if trial.value is not None
    }
    return min(values, key=values.__getitem__) if values else None


def _round(search: Search, study: StudyFile) -> list[PendingTrial]:
    """Return the missing trials of the first round that is not complete."""
    return [
        PendingTrial(way, number, _settings(search, study, way, number))
        for way in search.ways
        for done in [len(study.raw(way.name))]
        for number in range(done, min(_round_end(done, search.together), way.trials))
        if done < _furthest(search, study)
    ]


def _furthest(search: Search, study: StudyFile) -> int:
    """Return the end of the first round that some way has not completed."""
    missing = [
        len(study.raw(way.name)) for way in search.ways if len(study.raw(way.name)) < way.trials
    ]
    return _round_end(min(missing), search.together) if missing else 0


def _round_end(done: int, together: int) -> int:
    return (done // together + 1) * together


def _settings(search: Search, study: StudyFile, way: Way, number: int) -> Settings:
    # Only earlier rounds count, so that the draw does not depend on which trial finished first.
    before = study.raw(way.name)[: number // search.together * search.together]
    # All ways draw with the same seed, so that at random their n-th trials have the same learning
    # rate, and no way is ahead because it happened to draw a better one.
    return next_settings(
        way.space,
        way.start,
        sampler=search.sampler,
        number=number,
        before=before,
        trials=way.trials,
        seed=seeded("tune", search.seed),
    )


def _trial_of(settings: Settings, outcomes: Sequence[Outcome], metric: Measure) -> Trial:
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    reasons = [outcome for outcome in outcomes if isinstance(outcome, str)]
    return Trial(
        settings=settings,
        value=None if reasons else fmean(getattr(outcome.last, metric.key) for outcome in results),
        scores=tuple({key: getattr(outcome.last, key) for key in SCORES} for outcome in results),
        seconds=sum(outcome.seconds for outcome in results),
        reason=reasons[0] if reasons else "",
    )
