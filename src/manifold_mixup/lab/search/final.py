"""The end of a search: the best trial of each way on fresh seeds, and the look at the test set."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.evaluate.statistics import Difference, Spread, paired_difference, spread
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import Result, read_result
from manifold_mixup.lab.search.space import Settings, applied
from manifold_mixup.lab.search.study import StudyFile
from manifold_mixup.lab.search.trials import Search, Train, Way, best


@dataclass(frozen=True)
class Finalist:
    """The best trial of a way, trained again with fresh seeds.

    Attributes:
        way: the way.
        settings: the settings of its best trial; ``None`` if all its trials failed.
        results: the results on validation examples, one for each seed; empty if a run diverged.
        reason: why there are no results.
    """

    way: Way
    settings: Settings | None
    results: tuple[Result, ...] = ()
    reason: str = ""

    @property
    def run(self) -> Recipe:
        """The recipe with the settings of the best trial."""
        return self.way.run if self.settings is None else applied(self.way.run, self.settings)

    def values(self, metric: Measure) -> list[float]:
        """Return the metric of each seed."""
        return [getattr(result.last, metric.key) for result in self.results]

    def spread(self, metric: Measure) -> Spread:
        """Return the mean and the standard deviation over the seeds."""
        return spread(self.values(metric))

    def difference(self, other: "Finalist", metric: Measure) -> Difference:
        """Return the paired difference to another finalist over the same seeds."""
        return paired_difference(self.values(metric), other.values(metric))


def finalists(
    search: Search, study: StudyFile, *, seeds: int, folder: Path, train: Train
) -> list[Finalist]:
    """Train the best trial of each way with seeds, and splits, that no trial has used.

    The value of a best trial is too good, because the best of many was taken. Fresh seeds do not
    have this fault. The results are kept in the study, and read from it the next time.
    """
    stored = study.found("finalists")
    if stored is None:
        settings_of = {way.name: _settings(study, way.name) for way in search.ways}
        runs = {
            way.name: [
                replace(applied(way.run, best_settings), seed=search.seeds + seed)
                for seed in range(seeds)
            ]
            for way in search.ways
            if (best_settings := settings_of[way.name]) is not None
        }
        all_runs = list(dict.fromkeys(run for way_runs in runs.values() for run in way_runs))
        split = search.split.ready({run.seed for run in all_runs})
        outcomes = train(all_runs, split, folder, "best trials")
        stored = {
            name: [_stored_outcome(outcomes[run]) for run in runs.get(name, [])]
            for name in settings_of
        }
        study.keep("finalists", stored)
    return [_finalist(way, _settings(study, way.name), stored[way.name]) for way in search.ways]


def winner(finalists: Sequence[Finalist], metric: Measure) -> Finalist | None:
    """Return the finalist with the lowest mean, the first of equals; None if all failed."""
    successful = [finalist for finalist in finalists if finalist.results]
    return (
        min(successful, key=lambda finalist: finalist.spread(metric).mean) if successful else None
    )


def measure_on_test_set(
    study: StudyFile,
    compared: Sequence[Finalist],
    data: Data,
    *,
    seeds: int,
    folder: Path,
    train: Train,
) -> None:
    """Train the finalists on the whole training set, measure them on the test set, and keep it.

    This is the only function of the search that is given the test set.
    """
    runs = [replace(finalist.run, seed=seed) for seed in range(seeds) for finalist in compared]
    outcomes = train(list(dict.fromkeys(runs)), data, folder, "test set")
    study.keep("look", [_stored_outcome(outcomes[run]) for run in runs])


def stored_test_results(study: StudyFile) -> list[Result] | None:
    """Return the results of the look at the test set; None if there was none yet.

    Raises:
        FloatingPointError: a run of it diverged.
    """
    stored = study.found("look")
    if stored is None:
        return None
    if reasons := [outcome for outcome in stored if isinstance(outcome, str)]:
        raise FloatingPointError(
            f"the look at the test set failed: {reasons[0]} It is used up. Train the command "
            f"by hand with other settings."
        )
    return [read_result(outcome) for outcome in stored]


def _settings(study: StudyFile, way: str) -> Settings | None:
    number = best(study, way)
    return None if number is None else study.trials(way)[number].settings


def _stored_outcome(outcome: Result | str) -> dict[str, Any] | str:
    """Return what is kept of an outcome, without the curve."""
    return outcome if isinstance(outcome, str) else asdict(replace(outcome, curve=()))


def _finalist(
    way: Way, settings: Settings | None, stored: Sequence[Mapping[str, Any] | str]
) -> Finalist:
    if settings is None:
        return Finalist(way, None, reason="all its trials failed")
    if reasons := [outcome for outcome in stored if isinstance(outcome, str)]:
        return Finalist(way, settings, reason=reasons[0])
    results = tuple(read_result(outcome) for outcome in stored if not isinstance(outcome, str))
    return Finalist(way, settings, results)
