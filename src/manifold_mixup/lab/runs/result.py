"""What a run ends in, and how it is told from files."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from manifold_mixup.lab.evaluate import Reliability, Scores
from manifold_mixup.lab.recipes.recipe import Recipe


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch.

    Attributes:
        epoch: its number, from 1.
        train_loss: the loss that was minimised, mixed or not.
        error: of the test set, or of the held-out examples where there are some, in percent.
        nll: likewise.
    """

    epoch: int
    train_loss: float
    error: float
    nll: float


@dataclass(frozen=True)
class Start:
    """Where a training begins that was begun before.

    Attributes:
        epoch: the epoch that comes next, or is under way.
        step: steps already taken in it.
        steps: steps of an epoch.
        finished: whether the run was finished, so that nothing is trained.
    """

    epoch: int
    step: int
    steps: int
    finished: bool = False


@dataclass(frozen=True)
class Result:
    """What a run ended in.

    Attributes:
        run: its recipe.
        seconds: time spent training, evaluation left out.
        curve: one `Epoch` after another.
        last: scores on the test set after the last epoch.
        best: scores on the test set after ``best_epoch``.
        best_epoch: the epoch of the least error on the curve; without held-out examples that is
            the *test* error: optimistic, for comparison with papers that report it.
        weights: SHA-256 of the final weights, equal if and only if they are equal bit for bit.
    """

    run: Recipe
    seconds: float
    curve: tuple[Epoch, ...]
    last: Scores
    best: Scores
    best_epoch: int
    weights: str


def read_run(fields: Mapping[str, Any]) -> Recipe:
    """Build the recipe that ``dataclasses.asdict`` took apart, JSON in between.

    Raises:
        ValueError: it has a setting that this version does not know.
    """
    if strange := sorted(set(fields) - {one.name for one in dataclasses.fields(Recipe)}):
        raise ValueError(
            f"the run was made by another version: this one has no setting {strange[0]!r}. Use "
            f"the version that made it, which recipe.json names, or train it again."
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Recipe(**values)


def read_result(fields: Mapping[str, Any]) -> Result:
    """Build the result that ``dataclasses.asdict`` took apart, JSON in between."""
    return Result(
        run=read_run(fields["run"]),
        seconds=fields["seconds"],
        curve=tuple(read_epoch(epoch) for epoch in fields["curve"]),
        last=_scores(fields["last"]),
        best=_scores(fields["best"]),
        best_epoch=fields["best_epoch"],
        weights=fields["weights"],
    )


def read_epoch(fields: Mapping[str, Any]) -> Epoch:
    """Build the epoch that ``dataclasses.asdict`` took apart, JSON in between."""
    return Epoch(**_numbers(fields))


def _scores(fields: Mapping[str, Any]) -> Scores:
    bins = {name: tuple(map(_number, values)) for name, values in fields["reliability"].items()}
    return Scores(**{**_numbers(fields), "reliability": Reliability(**bins)})


def _numbers(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _number(value) for name, value in fields.items()}


def _number(value: Any) -> Any:
    """Read as NaN what was not finite: JSON has ``null`` there."""
    return math.nan if value is None else value
