"""The search space of a way of mixing: which settings are searched, and within which bounds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.fresh import with_layers
from manifold_mixup.lab.recipes.recipe import Recipe

Settings = Mapping[str, float | str]
"""The settings of a trial: lr, weight_decay and, for ways that mix, alpha, layers and their own."""

OWN_SETTINGS = {
    "bandwidth": "bandwidth",
    "share": "share",
    "ict_weight": "ICT weight",
    "ema": "EMA",
}
"""The settings that only some ways have, with the words for them."""

_NUMBERS = ("lr", "weight_decay", "alpha", *OWN_SETTINGS)
_SEPARATOR = "+"


@dataclass(frozen=True)
class Space:
    """The search space of a way.

    Several values of a number are the points of a grid, or else the smallest and the greatest of
    them are the bounds of a range on a logarithmic scale.

    Attributes:
        lr: peak learning rates.
        weight_decay: weight decays.
        alpha: values of α; empty if the way does not mix.
        layers: sets of eligible layers; empty if the way does not mix.
        bandwidth: bandwidths of near pairs; empty for other ways.
        share: shares of a state that are covered by blocks; empty for other ways.
        ict_weight: greatest weights of the consistency on unlabelled examples; empty for others.
        ema: decays of its teacher; empty for other ways.
    """

    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    alpha: tuple[float, ...] = ()
    layers: tuple[tuple[str, ...], ...] = ()
    bandwidth: tuple[float, ...] = ()
    share: tuple[float, ...] = ()
    ict_weight: tuple[float, ...] = ()
    ema: tuple[float, ...] = ()

    @property
    def choices(self) -> tuple[str, ...]:
        """The sets of layers as words, such as ``"input+hidden1"``."""
        return tuple(map(_SEPARATOR.join, self.layers))

    @property
    def numbers(self) -> dict[str, tuple[float, ...]]:
        """The values of each number that is searched."""
        return {name: values for name in _NUMBERS if (values := getattr(self, name))}

    def grid(self) -> list[Settings]:
        """Return all combinations of the values."""
        axes: dict[str, Sequence[float | str]] = {**self.numbers}
        if self.layers:
            axes["layers"] = self.choices
        return [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]

    def bounds(self, name: str) -> tuple[float, float]:
        """Return the smallest and the greatest value of a number."""
        return min(self.numbers[name]), max(self.numbers[name])

    def contains(self, settings: Settings) -> bool:
        """Return whether settings lie within the bounds."""
        near = (
            low * (1 - 1e-9) <= float(settings[name]) <= high * (1 + 1e-9)
            for name in self.numbers
            for low, high in [self.bounds(name)]
        )
        return all(near) and (not self.layers or settings["layers"] in self.choices)


def around(run: Recipe, data: Data, *, grid: bool) -> Space:
    """Return the space around the settings of a recipe.

    Learning rates reach from a tenth to ten times that of the recipe, weight decays from a
    hundredth to ten times, and α from 0.05 to 4, or further if the recipe's own α is outside. The
    bandwidth of near pairs reaches from a tenth to three times, the share of PatchUp's blocks from
    0.2 to 0.9, the weight of ICT from a hundredth to three times, and the decay of its teacher
    from 0.9 to 0.999. A grid has three learning rates, three α, and the recipe's other settings.

    Args:
        run: the recipe of a way.
        data: the data, for a model whose layers `find_layers` chooses.
        grid: whether the space is for a grid.
    """
    lr, decay, alpha = run.lr, run.weight_decay, run.alpha
    ranges: dict[str, tuple[float, ...]] = {
        "lr": (_short(lr / 10), _short(lr * 10)),
        "weight_decay": (_short(decay / 100), _short(decay * 10)) if decay else (0.0,),
        "alpha": (min(0.05, _short(alpha / 2)), max(4.0, _short(alpha * 2))),
    }
    if grid:
        ranges = {
            "lr": (_short(lr / 3), lr, _short(lr * 3)),
            "weight_decay": (decay,),
            "alpha": (0.2, 0.5, 1.0),
        }
    if not run.layers:
        return Space(ranges["lr"], ranges["weight_decay"])
    return Space(**ranges, **_own_ranges(run, grid=grid), layers=layer_sets(run, data))


def own_settings(run: Recipe) -> tuple[str, ...]:
    """Return the names of the settings that only this way of mixing has and that are searched."""
    near = ("bandwidth",) if run.pairs in ("near", "near_in_batch") else ()
    blocks = ("share",) if run.blend in ("patchup-soft", "patchup-hard") else ()
    taught = ("ict_weight", "ema") if run.ict_weight else ()
    return (*near, *blocks, *taught) if run.layers else ()


def _own_ranges(run: Recipe, *, grid: bool) -> dict[str, tuple[float, ...]]:
    width, share, weight, ema = run.bandwidth, run.share, run.ict_weight, run.ema
    ranges = {
        "bandwidth": (_short(width / 10), _short(width * 3)),
        "share": (min(0.2, share), max(0.9, share)),
        "ict_weight": (_short(weight / 100), _short(weight * 3)),
        "ema": (min(0.9, ema), max(0.999, ema)),
    }
    return {name: (getattr(run, name),) if grid else ranges[name] for name in own_settings(run)}


def layer_sets(run: Recipe, data: Data) -> tuple[tuple[str, ...], ...]:
    """Return the sets of eligible layers that are worth a try.

    These are the recipe's own set, the hidden layers among it, and each hidden layer alone. The
    recipe's own layers are the model's eligible ones, which are the paper's or those that
    `find_layers` chooses. A recipe that mixes at the input only has only that set.
    """
    eligible = with_layers(run, data).layers
    hidden = tuple(layer for layer in eligible if layer != "input")
    if not hidden:
        return (eligible,)
    return tuple(dict.fromkeys((eligible, hidden, *((layer,) for layer in hidden))))


def settings_of(run: Recipe) -> Settings:
    """Return the settings of a recipe whose layers are known."""
    settings: dict[str, float | str] = {"lr": run.lr, "weight_decay": run.weight_decay}
    if run.layers:
        settings |= {"alpha": run.alpha, "layers": _SEPARATOR.join(run.layers)}
        settings |= {name: getattr(run, name) for name in own_settings(run)}
    return settings


def applied(run: Recipe, settings: Settings) -> Recipe:
    """Return the recipe with the settings of a trial."""
    values: dict[str, Any] = dict(settings)
    if "layers" in values:
        values["layers"] = layers_of(values["layers"])
    return replace(run, **values)


def layers_of(words: str) -> tuple[str, ...]:
    """Return a set of layers from its words.

    Examples:
        >>> layers_of("input+hidden1")
        ('input', 'hidden1')
    """
    return tuple(words.split(_SEPARATOR))


def in_words(settings: Settings) -> str:
    """Return settings as words.

    Examples:
        >>> in_words({"lr": 0.1, "weight_decay": 0.01, "alpha": 0.2, "layers": "input+hidden1"})
        'learning rate 0.1, weight decay 0.01, α 0.2 at input, hidden1'
    """
    words = f"learning rate {settings['lr']:g}, weight decay {settings['weight_decay']:g}"
    if "layers" not in settings:
        return words
    layers = ", ".join(layers_of(str(settings["layers"])))
    return f"{words}, α {settings['alpha']:g}{own_words(settings)} at {layers}"


def in_short(settings: Settings) -> str:
    """Return settings as few words.

    Examples:
        >>> in_short({"lr": 0.1, "weight_decay": 0.01, "alpha": 0.2, "layers": "input+hidden1"})
        'lr 0.1, wd 0.01, α 0.2 at input+hidden1'
    """
    words = f"lr {settings['lr']:g}, wd {settings['weight_decay']:g}"
    if "layers" not in settings:
        return words
    return f"{words}, α {settings['alpha']:g}{own_words(settings)} at {settings['layers']}"


def own_words(settings: Settings) -> str:
    """Return the settings that only this way has, as words, each after a comma."""
    names = (name for name in OWN_SETTINGS if name in settings)
    return "".join(f", {OWN_SETTINGS[name]} {settings[name]:g}" for name in names)


def _short(number: float) -> float:
    """Round a number to three significant digits."""
    return float(f"{number:.3g}") if math.isfinite(number) else number
