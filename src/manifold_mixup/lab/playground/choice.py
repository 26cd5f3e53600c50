"""The settings on the page: their bounds, the two recipes they give, and their form in a link."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple
from urllib.parse import urlencode

from manifold_mixup.lab import paper
from manifold_mixup.lab.data import Data, spirals
from manifold_mixup.lab.recipes.recipe import Recipe

LAYERS = (
    "input", "hidden1", "hidden2", "hidden3", "hidden4", "bottleneck", "hidden5", "hidden6",
    "hidden7",
)  # fmt: skip
"""The layers of the spiral network that can be mixed, in order."""

MANIFOLD = "manifold mixup"
INPUT = "input mixup"


class Bounds(NamedTuple):
    """The range of a number and the step of its slider."""

    low: float
    high: float
    step: float


BOUNDS = {
    "alpha": Bounds(0.1, 8, 0.1),
    "noise": Bounds(0, 3, 0.1),
    "width": Bounds(8, 256, 8),
    "seed": Bounds(0, 99, 1),
}


@dataclass(frozen=True)
class Choice:
    """The settings on the page. The defaults are the runs of Figure 1.

    Attributes:
        method: the method to compare with no mixup.
        alpha: λ ~ Beta(α, α), for both kinds of mixup.
        layers: the eligible layers of manifold mixup.
        noise: the maximal shift of a point's coordinates; the two spirals are about 3 apart.
        width: units of a hidden layer.
        seed: seed of the weights, the order of the points and the mixing.
    """

    method: str = MANIFOLD
    alpha: float = 2.0
    layers: tuple[str, ...] = ("bottleneck",)
    noise: float = 0.5
    width: int = 128
    seed: int = 0

    def runs(self) -> tuple[Recipe, Recipe]:
        """Return the recipes of no mixup and of the method."""
        plain, run = (
            replace(methods()[name], width=self.width, seed=self.seed)
            for name in ("no mixup", self.method)
        )
        if self.method == MANIFOLD:
            run = replace(run, layers=self.layers)
        return plain, replace(run, alpha=self.alpha) if run.layers else run

    def data(self) -> Data:
        """Draw the points."""
        return spirals.load(noise=self.noise)

    def query(self) -> str:
        """Return the query string of a link to these settings."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return urlencode({**values, "layers": ",".join(self.layers)}, safe=",")


@cache
def methods() -> dict[str, Recipe]:
    """Return the recipes of Figure 2 by their names, without α."""
    rows = paper.table("figure-2").rows
    return {row.run.method.split(" α")[0]: row.run for row in rows if row.run is not None}


def read(query: Mapping[str, str]) -> tuple[Choice, list[str]]:
    """Return the settings in a link, and a complaint for each invalid value, which is ignored."""
    usual, found, said = Choice(), dict[str, object](), list[str]()
    for name, text in query.items():
        try:
            if name == "method":
                found[name] = _one_of("method", text, [*methods()][1:])
            elif name == "layers":
                chosen = {_one_of("layer", layer, LAYERS) for layer in text.split(",")}
                found[name] = tuple(layer for layer in LAYERS if layer in chosen)
            elif name in BOUNDS:
                found[name] = _number(name, text)
            else:
                said.append(f"There is no setting {name!r}.")
        except ValueError as error:
            value = getattr(usual, name)
            shown = ", ".join(value) if isinstance(value, tuple) else value
            said.append(f"{error} The default is used: {shown}.")
    return replace(usual, **found), said  # type: ignore[arg-type]


def _one_of(kind: str, text: str, known: list[str] | tuple[str, ...]) -> str:
    if text not in known:
        raise ValueError(f"There is no {kind} {text!r}.")
    return text


def _number(name: str, text: str) -> float:
    low, high, _ = BOUNDS[name]
    whole = isinstance(getattr(Choice(), name), int)
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} is {text!r}, not {kind} from {low:g} to {high:g}.")
    return number
