"""The result of a run, and how it is read from files."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manifold_mixup.lab.evaluate import Reliability, Scores
from manifold_mixup.lab.evaluate.equal_nan import EqualNaN
from manifold_mixup.lab.recipes.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Epoch(EqualNaN):
    """The metrics of an epoch; those that were not computed are ``nan``.

    Attributes:
        epoch: its number, from 1.
        train_loss: the mean training loss, of mixed batches if the run mixes.
        error: error in percent, on the held-out examples if there are any, else on the test set.
            For a regression, the root mean squared error in the units of the targets.
        nll: negative log-likelihood on the same examples; for a regression, the mean squared error.
    """

    epoch: int
    train_loss: float
    error: float
    nll: float


@dataclass(frozen=True)
class Start:
    """Where a resumed training starts.

    Attributes:
        epoch: the epoch to continue with.
        step: steps already taken in it.
        steps: steps per epoch.
        finished: whether the run was finished, so that nothing is trained.
    """

    epoch: int
    step: int
    steps: int
    finished: bool = False


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        run: its recipe.
        seconds: training time, without evaluation.
        curve: the metrics of all epochs.
        last: scores on the test set after the last epoch.
        best: scores on the test set after ``best_epoch``.
        best_epoch: the epoch with the lowest error on the curve. Without held-out examples, this is
            the lowest *test* error: optimistic, but comparable to papers that report it.
        weights: SHA-256 of the final weights, which identifies them bit for bit.
        more: further measures of the final weights by their key, which a comparison adds.
        best_weights: SHA-256 of the weights after ``best_epoch``; empty in results of versions that
            did not keep it.
    """

    run: Recipe
    seconds: float
    curve: tuple[Epoch, ...]
    last: Scores
    best: Scores
    best_epoch: int
    weights: str
    more: Mapping[str, float] = field(default_factory=dict)
    best_weights: str = ""


def read_run(fields: Mapping[str, Any]) -> Recipe:
    """Return a recipe from its JSON fields.

    Raises:
        ValueError: it has a setting that this version does not know.
    """
    if strange := sorted(set(fields) - {field.name for field in dataclasses.fields(Recipe)}):
        raise ValueError(
            f"the run was made by another version: this version has no setting {strange[0]!r}. "
            f"Use the version named in recipe.json, or train the run again."
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Recipe(**values)


def read_result(fields: Mapping[str, Any]) -> Result:
    """Return a result from its JSON fields."""
    return Result(
        run=read_run(fields["run"]),
        seconds=fields["seconds"],
        curve=tuple(read_epoch(epoch) for epoch in fields["curve"]),
        last=_scores(fields["last"]),
        best=_scores(fields["best"]),
        best_epoch=fields["best_epoch"],
        weights=fields["weights"],
        more=_numbers(fields.get("more", {})),
        best_weights=fields.get("best_weights", ""),
    )


def read_epoch(fields: Mapping[str, Any]) -> Epoch:
    """Return an epoch from its JSON fields."""
    return Epoch(**_numbers(fields))


def _scores(fields: Mapping[str, Any]) -> Scores:
    bins = {name: tuple(map(_number, values)) for name, values in fields["reliability"].items()}
    return Scores(**{**_numbers(fields), "reliability": Reliability(**bins)})


def _numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in fields.items()}


def _number(value: Any) -> Any:
    """Return NaN for ``null``, which JSON has in place of numbers that are not finite."""
    return math.nan if value is None else value
