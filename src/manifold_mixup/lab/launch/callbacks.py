"""Callbacks for the progress of many runs, and the data they train on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import Epoch, Start

OnEpoch = Callable[[Recipe, Epoch], None]
OnStep = Callable[[Recipe, float], None]
OnNote = Callable[[Recipe, str], None]
OnStart = Callable[[Recipe, Start], None]
OnFailure = Callable[[Recipe, FloatingPointError], None]
News = Epoch | Start | float | str
"""Progress of a run: a finished epoch, its start, the epochs done (a fraction), or a note."""
After = Callable[[Path, Data, Callable[[str], None]], object]
"""Called with a finished run's folder, its data and a function that reports progress in words."""
Source = Data | Mapping[str, Data] | Callable[[int], Data]
"""The data of all runs, by the name in a recipe if there are several data sets, or a function from
the seed of a run to its data."""


def data_of(run: Recipe, source: Source) -> Data:
    """Return the data that a run trains on."""
    if isinstance(source, Mapping):
        return source[run.data]
    return source if isinstance(source, Data) else source(run.seed)


class Reports(NamedTuple):
    """Callbacks for epochs, steps, notes, the start of resumed runs, and runs that diverged."""

    on_epoch: OnEpoch
    on_step: OnStep = lambda *_: None
    on_note: OnNote = lambda *_: None
    on_start: OnStart = lambda *_: None
    on_failure: OnFailure | None = None

    def tell(self, run: Recipe, news: News) -> None:
        """Pass news of a run to its callback."""
        if isinstance(news, Epoch):
            self.on_epoch(run, news)
        elif isinstance(news, Start):
            self.on_start(run, news)
        elif isinstance(news, str):
            self.on_note(run, news)
        else:
            self.on_step(run, news)

    def fail(self, run: Recipe, error: FloatingPointError) -> None:
        """Pass the divergence of a run to its callback; without one, raise it."""
        if self.on_failure is None:
            raise error
        self.on_failure(run, error)
