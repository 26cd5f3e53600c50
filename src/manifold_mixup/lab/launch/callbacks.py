"""Callbacks for the progress of many runs."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import Epoch, Start

OnEpoch = Callable[[Recipe, Epoch], None]
OnStep = Callable[[Recipe, float], None]
OnNote = Callable[[Recipe, str], None]
OnStart = Callable[[Recipe, Start], None]
News = Epoch | Start | float | str
"""Progress of a run: a finished epoch, its start, the epochs done (a fraction), or a note."""
After = Callable[[Path, Data, Callable[[str], None]], object]
"""Called with a finished run's folder, its data and a function that reports progress in words."""


class Reports(NamedTuple):
    """Callbacks for epochs, steps, notes and the start of resumed runs."""

    on_epoch: OnEpoch
    on_step: OnStep = lambda *_: None
    on_note: OnNote = lambda *_: None
    on_start: OnStart = lambda *_: None

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
