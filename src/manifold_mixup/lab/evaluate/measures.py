"""The numbers in tables: their titles, digits, and places in scores and evaluations."""

import math
from collections.abc import Iterable, Mapping, Sequence
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
        layer: the layer whose states it is about, if it is about states.
    """

    key: str
    title: str
    digits: int = 2
    better: Literal["lower", "higher"] = "lower"
    battery: tuple[str, str] | None = None
    field: str = ""
    training: bool = False
    layer: str = ""

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
CONFIDENCE = Measure(
    "confidence",
    "conf. off data",
    digits=3,
    battery=("confidence", "off the data"),
    field="greatest",
)
"""The mean of the greatest softmax on inputs off the data."""

_OUTSIDE = "outside at "


def of_states(layer: str) -> tuple[Measure, ...]:
    """Return the measures of flatness at a layer.

    The paper's own stands beside that of centred states, and beside the share within classes:
    states that are all smaller within their class look flatter by the paper's measure.
    """
    part = ("flatness", layer)
    return (
        Measure(f"{_OUTSIDE}{layer}", "outside %", 1, "lower", part, "outside", layer=layer),
        Measure(f"within at {layer}", "within %", 1, "lower", part, "within", layer=layer),
        Measure(f"s1 at {layer}", "paper's s₁ %", 1, "higher", part, "s1_share", layer=layer),
    )


def looked_at(layers: Sequence[str]) -> tuple[Measure, ...]:
    """Return what a comparison measures at the last weights, beside the `Scores` of a run."""
    return (CONFIDENCE, *(measure for layer in layers for measure in of_states(layer)))


def layers_among(keys: Iterable[str]) -> list[str]:
    """Return the layers of the measures of flatness among some keys."""
    return [key.removeprefix(_OUTSIDE) for key in keys if key.startswith(_OUTSIDE)]
