"""The numbers that tables show: how each is called, rounded, and found in what was evaluated."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manifold_mixup.lab.evaluate.scores import Scores
from manifold_mixup.lab.evaluate.statistics import Difference

Verdict = Literal["better", "worse", "unclear"]


@dataclass(frozen=True)
class Measure:
    """A number that tables show of a run.

    Attributes:
        key: its name in scores, and in the rows of the paper's tables.
        title: what a table calls it.
        digits: how many are shown after the point.
        better: the direction one wants it to go.
        battery: the part of `evaluate` that finds it, and the name of its row there; ``None`` if
            it is one of the `Scores` that every run has.
        field: its name in that row, dots between the names of nested ones.
        training: whether it is one of the numbers of an `Epoch`, as the training loss is.
    """

    key: str
    title: str
    digits: int = 2
    better: Literal["lower", "higher"] = "lower"
    battery: tuple[str, str] | None = None
    field: str = ""
    training: bool = False

    def read(self, scores: Scores, evaluation: Mapping[str, Any]) -> float:
        """Find the number among the scores of a run, or in what `evaluate` returned.

        It is NaN if there is none, which JSON writes as ``null``.
        """
        if self.battery is None:
            return float(getattr(scores, self.key))
        part, name = self.battery
        (value,) = (row for row in evaluation[part] if row["name"] == name)
        for step in self.field.split("."):
            value = value[step]
        return math.nan if value is None else float(value)

    def verdict(self, difference: Difference) -> Verdict:
        """Return on which side the interval of a difference lies; unclear if it has both."""
        if not difference.excludes_zero:
            return "unclear"
        return "better" if (difference.mean < 0) == (self.better == "lower") else "worse"


ERROR = Measure("error", "error %")
TOP5_ERROR = Measure("top5_error", "top-5 error %")
NLL = Measure("nll", "NLL", digits=3)
ECE = Measure("ece", "ECE %")
BRIER = Measure("brier", "Brier", digits=3)
FGSM = Measure("fgsm_accuracy", "FGSM acc. %", digits=1, better="higher")
SECONDS = Measure("seconds", "seconds", digits=1)
