"""The numbers in tables: their titles, digits, and places in scores and evaluations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manifold_mixup.lab.evaluate.scores import Scores
from manifold_mixup.lab.evaluate.statistics import Difference

Verdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Measure:
    """A number of a run that tables show.

    Attributes:
        key: its name in scores, and in the rows of the paper's tables.
        title: its title in tables.
        digits: the number of decimals.
        better: whether lower or higher is better.
        battery: the part of `evaluate` that computes it and the name of its row; ``None`` if it is
            one of the `Scores` that every run has.
        field: its key in that row; nested keys are joined by dots.
        training: whether it is a field of `Epoch`, such as the training loss.
    """

    key: str
    title: str
    digits: int = 2
    better: Literal["lower", "higher"] = "lower"
    battery: tuple[str, str] | None = None
    field: str = ""
    training: bool = False

    def read(self, scores: Scores, evaluation: Mapping[str, Any]) -> float:
        """Return the number from the scores of a run, or from the result of `evaluate`.

        It is NaN if it is missing or stored as ``null``.
        """
        if self.battery is None:
            return float(getattr(scores, self.key))
        part, name = self.battery
        (value,) = (row for row in evaluation[part] if row["name"] == name)
        for step in self.field.split("."):
            value = value[step]
        return math.nan if value is None else float(value)

    def verdict(self, difference: Difference) -> Verdict:
        """Return the verdict on a difference: unclear if its interval includes zero."""
        if not difference.excludes_zero:
            return "unclear"
        return "better" if (difference.mean < 0) == (self.better == "lower") else "worse"


ERROR = Measure("error", "error %")
TOP5_ERROR = Measure("top5_error", "top-5 error %")
NLL = Measure("nll", "NLL", digits=3)
ECE = Measure("ece", "ECE %")
BRIER = Measure("brier", "Brier", digits=3)
FGSM = Measure("fgsm_accuracy", "FGSM acc. %", digits=1, better="higher")
RMSE = Measure("rmse", "RMSE", digits=4)
R2 = Measure("r2", "R²", digits=4, better="higher")
SECONDS = Measure("seconds", "seconds", digits=1)
