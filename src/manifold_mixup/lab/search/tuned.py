"""The settings that a finished search chose, as recipes for other commands."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import read_run
from manifold_mixup.lab.search.space import applied
from manifold_mixup.lab.search.study import StudyFile, read_study
from manifold_mixup.lab.search.trials import METRICS, best


@dataclass(frozen=True)
class Tuned:
    """What a search was about, and what it chose.

    Attributes:
        data: the name of the data set, without a path.
        model: the name of the model.
        metric: the metric that the settings were chosen by.
        trials: the number of trials of each way.
        seeds: the number of seeds of each trial.
        runs: the recipe of each way with the settings of its best trial.
    """

    data: str
    model: str
    metric: Measure
    trials: Mapping[str, int]
    seeds: int
    runs: Mapping[str, Recipe]

    @property
    def about(self) -> str:
        """A sentence about how the settings were chosen."""
        counts = sorted({self.trials[name] for name in self.runs})
        number = " to ".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
        return (
            f"Settings: the best of {number} trial{'s' * (counts[-1] > 1)} of each method by "
            f"{self.metric.title} on validation examples, mean of {self.seeds} "
            f"seed{'s' * (self.seeds > 1)}."
        )


def tuned(path: Path, ways: Sequence[str] | None = None) -> Tuned:
    """Read what a search chose.

    Args:
        path: the file of the search.
        ways: the names of the ways; ``None`` for all that were searched.

    Raises:
        ValueError: the file is no finished search, a way was not searched or has no trial that
            succeeded, or Optuna is not installed.
    """
    with read_study(path) as (asked, study):
        _require_searched(path, asked, ways or ())
        names = list(ways or asked["ways"])
        runs = {name: _best_run(path, asked, study, name) for name in names}
        return Tuned(
            data=asked["data"],
            model=asked["model"],
            metric=METRICS[asked["metric"]],
            trials=asked["trials"],
            seeds=asked["seeds"],
            runs=runs,
        )


def _require_searched(path: Path, asked: Mapping[str, Any], ways: Sequence[str]) -> None:
    if missing := [name for name in ways if name not in asked["ways"]]:
        raise ValueError(
            f"{path} has no trials of {', '.join(missing)}, only of {', '.join(asked['ways'])}. "
            f"Leave out the former, or search them too: manifold-mixup tune --ways, with another "
            f"--study."
        )


def _best_run(path: Path, asked: Mapping[str, Any], study: StudyFile, name: str) -> Recipe:
    trials, budget = study.trials(name), asked["trials"][name]
    if len(trials) < budget:
        raise ValueError(
            f"the search in {path} is not finished: it has {len(trials)} of {budget} trials of "
            f"{name}. Give the same manifold-mixup tune command again to finish it."
        )
    number = best(study, name)
    if number is None:
        raise ValueError(
            f"all trials of {name} in {path} failed: {trials[0].reason} Leave it out of --methods."
        )
    return applied(read_run(asked["recipes"][name]), trials[number].settings)
