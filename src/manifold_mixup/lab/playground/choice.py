"""The settings on the page: their bounds, the two recipes they give, and their form in a link."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple
from urllib.parse import urlencode

from manifold_mixup.lab import paper
from manifold_mixup.lab.data import Data, spirals
from manifold_mixup.lab.playground.offered import offered, refusal
from manifold_mixup.lab.recipes.recipe import Recipe, mixed
from manifold_mixup.lab.suggest import nearest

LAYERS = (
    "input", "hidden1", "hidden2", "hidden3", "hidden4", "bottleneck", "hidden5", "hidden6",
    "hidden7",
)  # fmt: skip
"""The layers of the spiral network that can be mixed, in order."""

NONE = "no mixup"
MANIFOLD = "manifold mixup"


class Bounds(NamedTuple):
    """The range of a number and the step of its slider."""

    low: float
    high: float
    step: float


BOUNDS = {
    "alpha": Bounds(0.1, 10, 0.1),
    "noise": Bounds(0, 3, 0.1),
    "width": Bounds(8, 256, 8),
    "seed": Bounds(0, 99, 1),
}


@dataclass(frozen=True)
class Choice:
    """The settings on the page. The defaults are the runs of Figure 1.

    Attributes:
        method: the method to compare with no mixup.
        alpha: λ ~ Beta(α, α), for methods that mix.
        layers: the eligible layers, for methods that mix hidden states.
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
            for name in (NONE, self.method)
        )
        if self.mixes_hidden:
            run = replace(run, layers=self.layers)
        return plain, replace(run, alpha=self.alpha) if self.mixes else run

    @property
    def mixes(self) -> bool:
        """Whether the method mixes, so that α matters."""
        return bool(methods()[self.method].layers)

    @property
    def mixes_hidden(self) -> bool:
        """Whether the method mixes hidden states, so that the layers matter."""
        return methods()[self.method].layers not in ((), ("input",))

    def switch(self, method: str) -> "Choice":
        """Return these settings with another method, and with its own α if it mixes."""
        choice = replace(self, method=method)
        return replace(choice, alpha=methods()[method].alpha) if choice.mixes else choice

    def data(self) -> Data:
        """Draw the points."""
        return spirals.load(noise=self.noise)

    def query(self) -> str:
        """Return the query string of a link to these settings."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return urlencode({**values, "layers": ",".join(self.layers)}, safe=",")


@cache
def methods() -> dict[str, Recipe]:
    """Return a recipe for each method by its name, starting with no mixup.

    The methods are the ways of mixing that suit the points, and the rows of Figure 2. A way that
    is not in the figure has its authors' settings, or the α of manifold mixup in the figure.
    """
    rows = (row.run for row in paper.table("figure-2").rows)
    figure = {run.method.split(" α")[0]: run for run in rows if run is not None}
    plain, alpha = figure[NONE], figure[MANIFOLD].alpha
    return {way.method: mixed(plain, way, alpha=alpha) for way in offered()} | figure


def names() -> list[str]:
    """Return the names of the methods that can be compared with no mixup."""
    return [name for name in methods() if name != NONE]


def read(query: Mapping[str, str]) -> tuple[Choice, list[str]]:
    """Return the settings in a link, and a complaint for each invalid value, which is ignored."""
    values, complaints = dict[str, object](), list[str]()
    method = query.get("method", "")
    defaults = Choice().switch(method) if method in names() else Choice()
    for name, text in query.items():
        try:
            if name == "method":
                values[name] = _method(text)
            elif name == "layers":
                values[name] = _layers(text)
            elif name in BOUNDS:
                values[name] = _number(name, text)
            else:
                complaints.append(f"There is no setting {name!r}.")
        except ValueError as error:
            value = getattr(defaults, name)
            default = ", ".join(value) if isinstance(value, tuple) else value
            complaints.append(f"{error} The default is used: {default}.")
    return replace(defaults, **values), complaints  # type: ignore[arg-type]


def _method(text: str) -> str:
    if text in names():
        return text
    raise ValueError(refusal(text) or f"There is no method {text!r}.{nearest(text, names())}")


def _layers(text: str) -> tuple[str, ...]:
    chosen = text.split(",")
    for layer in chosen:
        if layer not in LAYERS:
            raise ValueError(f"There is no layer {layer!r}.")
    return tuple(layer for layer in LAYERS if layer in chosen)


def _number(name: str, text: str) -> float:
    low, high, _ = BOUNDS[name]
    is_integer = isinstance(getattr(Choice(), name), int)
    try:
        number = int(text) if is_integer else float(text)
    except ValueError:
        number = math.nan
    if not low <= number <= high:
        kind = "a whole number" if is_integer else "a number"
        raise ValueError(f"{name} is {text!r}, not {kind} from {low:g} to {high:g}.")
    return number
