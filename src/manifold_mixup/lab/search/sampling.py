"""The settings of the next trial: a function of the search's seed and of the trials before."""

from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal

from manifold_mixup.lab.search.space import Settings, Space
from manifold_mixup.lab.seeds import seeded

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

Sampler = Literal["tpe", "random", "grid"]

_BY_DISTANCE_TO_ONE = ("ema",)
"""Numbers below 1 whose distance to 1 is drawn on the logarithmic scale."""


def next_settings(
    space: Space,
    start: Settings,
    *,
    sampler: Sampler,
    number: int,
    before: "Sequence[FrozenTrial]",
    trials: int,
    seed: int,
) -> Settings:
    """Return the settings of a trial.

    The first trial takes the recipe's own settings, unless they are outside the space. A quarter of
    the trials, at least four, are drawn at random before ``tpe`` (Bergstra et al., "Algorithms for
    Hyper-Parameter Optimization", 2011) uses the trials before. Numbers are rounded to three
    digits.

    The decay of a teacher is drawn by its distance to 1, since 0.9 to 0.99 averages over as many
    more steps as 0.99 to 0.999.

    Optuna draws in a study in memory, from a sampler seeded for this trial alone. So a search that
    is resumed draws what an uninterrupted one would have drawn.

    Args:
        space: the search space.
        start: the recipe's own settings.
        sampler: ``"grid"`` takes the points of the grid in their order; the others draw.
        number: the number of the trial, from 0.
        before: the trials that the draw may depend on.
        trials: the number of trials in all.
        seed: the seed of the draw, for instance of the search and the way.
    """
    if sampler == "grid":
        return space.grid()[number]
    if number == 0 and space.contains(start):
        return start
    return _sample(space, sampler, before, trials, seeded("trial", seed, number))


def distributions(space: Space, *, grid: bool) -> "dict[str, BaseDistribution]":
    """Return the space in Optuna's terms."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    result: dict[str, BaseDistribution] = {}
    for name, values in space.numbers.items():
        low, high = space.bounds(name)
        result[name] = (
            CategoricalDistribution(values)
            if grid or low == high
            else FloatDistribution(low, high, log=True)
        )
    if space.layers:
        result["layers"] = CategoricalDistribution(space.choices)
    return result


def _sample(
    space: Space, sampler: Sampler, before: "Sequence[FrozenTrial]", trials: int, seed: int
) -> Settings:
    import optuna

    seed %= 2**32  # the range of NumPy's seeds
    sampler_of_optuna: Any = (
        optuna.samplers.RandomSampler(seed=seed)
        if sampler == "random"
        else optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(4, trials // 4))
    )
    study = optuna.create_study(sampler=sampler_of_optuna)
    study.add_trials([_with_distances_to_one(trial) for trial in before])
    ranges = {
        name: _distance_to_one(name, distribution)
        for name, distribution in distributions(space, grid=False).items()
    }
    params = study.ask(ranges).params
    return {name: _rounded(name, value, space) for name, value in params.items()}


def _with_distances_to_one(trial: "FrozenTrial") -> "FrozenTrial":
    """Return a trial with the distances to 1 of the numbers that are drawn by them."""
    trial = copy(trial)
    names = [name for name in _BY_DISTANCE_TO_ONE if name in trial.params]
    trial.params = trial.params | {name: 1 - trial.params[name] for name in names}
    trial.distributions = {
        name: _distance_to_one(name, distribution)
        for name, distribution in trial.distributions.items()
    }
    return trial


def _distance_to_one(name: str, distribution: "BaseDistribution") -> "BaseDistribution":
    """Return the distribution of the distance to 1, if that is what is drawn."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if name not in _BY_DISTANCE_TO_ONE:
        return distribution
    if isinstance(distribution, FloatDistribution):
        return FloatDistribution(1 - distribution.high, 1 - distribution.low, log=True)
    assert isinstance(distribution, CategoricalDistribution)
    return CategoricalDistribution([1 - float(value) for value in distribution.choices])  # type: ignore[arg-type]


def _rounded(name: str, value: Any, space: Space) -> float | str:
    if isinstance(value, str):
        return value
    low, high = space.bounds(name)
    short = float(f"{value:.3g}")
    return min(max(round(1 - short, 9) if name in _BY_DISTANCE_TO_ONE else short, low), high)
