"""The ways that are searched, with the values of the settings that the user gave."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.fresh import with_layers
from manifold_mixup.lab.recipes.check import check_recipe
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.search.space import Space, around, layers_of, own_settings
from manifold_mixup.lab.search.trials import Way
from manifold_mixup.lab.training.method import check

TRIALS = 20

_WAYS_WITH = {
    "bandwidth": ("c-mixup",),
    "share": ("patchup-soft", "patchup-hard"),
    "ict_weight": ("ict",),
    "ema": ("ict",),
}
_OWN = tuple(_WAYS_WITH)


@dataclass(frozen=True)
class SearchValues:
    """Values of settings that replace those around a recipe; empty ones are not given.

    Attributes:
        lr: learning rates: the points of a grid, the bounds of a range, or one fixed value.
        weight_decay: weight decays, likewise.
        alpha: values of α, likewise.
        layers: sets of layers for hidden mixing, as words such as ``"input+hidden1"``.
        bandwidth: bandwidths of near pairs, in the units of the targets, likewise.
        share: shares of a state that PatchUp's blocks cover, likewise.
        ict_weight: greatest weights of the consistency on unlabelled examples, likewise.
        ema: decays of its teacher, likewise.
        grid: whether the values are the points of a grid.
    """

    lr: tuple[float, ...] = ()
    weight_decay: tuple[float, ...] = ()
    alpha: tuple[float, ...] = ()
    layers: tuple[str, ...] = ()
    bandwidth: tuple[float, ...] = ()
    share: tuple[float, ...] = ()
    ict_weight: tuple[float, ...] = ()
    ema: tuple[float, ...] = ()
    grid: bool = False

    def check(self) -> None:
        """Raise a `ValueError` if a number is out of range, or a range has more than two ends."""
        for name in ("lr", "weight_decay", "alpha", *_OWN):
            values, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            if not self.grid and len(values) > 2:
                raise ValueError(
                    f"{flag} has {len(values)} values, but a range has two bounds, and a fixed "
                    f"setting one value. Use --sampler grid to try just these values."
                )
            # A range on a logarithmic scale cannot begin at 0.
            zero = name == "weight_decay" and (self.grid or len(values) == 1)
            for value in values:
                if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
                    least = "0 or more" if zero else "a finite number above 0"
                    raise ValueError(f"{flag} has the value {value:g}. Expected {least}.")
                if name in ("share", "ema") and value >= 1:
                    raise ValueError(f"{flag} has the value {value:g}. Expected less than 1.")

    def way(self, name: str, run: Recipe, data: Data, *, trials: int | None) -> Way:
        """Return a way with its space, in which every set of layers was checked.

        Args:
            name: its name.
            run: its recipe.
            data: the data of a seed.
            trials: the number of its trials; ``None`` for all points of a grid, or else `TRIALS`.

        Raises:
            ValueError: a layer is unknown or cannot be mixed, or the recipe does not suit the data.
        """
        run = with_layers(run, data)
        space = self._space(run, data)
        for layers in space.layers or ((),):
            candidate = replace(run, layers=layers)
            check_recipe(candidate)
            check(candidate, data)
        return Way(name, run, space, len(space.grid()) if self.grid else trials or TRIALS)

    def require_used(self, ways: Sequence[Way]) -> None:
        """Raise a `ValueError` if a given value concerns none of the ways."""
        names = ", ".join(way.name for way in ways)
        if self.alpha and not any(way.run.layers for way in ways):
            raise ValueError(f"--alpha was given, but no way mixes: {names}. Add one with --ways.")
        for name in _OWN:
            if getattr(self, name) and not any(name in own_settings(way.run) for way in ways):
                flag, others = f"--{name.replace('_', '-')}", ", ".join(_WAYS_WITH[name])
                raise ValueError(
                    f"{flag} was given, but no way has it: {names}. Ways with it: {others}."
                )
        if self.layers and not any(_mixes_hidden(way.run) for way in ways):
            raise ValueError(
                f"--layers was given, but no way mixes hidden states: {names}. Add one with --ways."
            )

    def _space(self, run: Recipe, data: Data) -> Space:
        space = around(run, data, grid=self.grid)
        layers = tuple(dict.fromkeys(map(layers_of, self.layers)))
        return replace(
            space,
            lr=self.lr or space.lr,
            weight_decay=self.weight_decay or space.weight_decay,
            alpha=(self.alpha or space.alpha) if run.layers else (),
            layers=layers if layers and _mixes_hidden(run) else space.layers,
            **{name: getattr(self, name) or getattr(space, name) for name in own_settings(run)},
        )


def _mixes_hidden(run: Recipe) -> bool:
    return run.layers not in ((), ("input",))
