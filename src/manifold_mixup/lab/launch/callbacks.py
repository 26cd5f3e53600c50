"""What many runs tell the one who started them."""

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
"""What a run tells: an epoch that is done, where it resumes, epochs done (parts counted), words."""
After = Callable[[Path, Data, Callable[[str], None]], object]
"""What is done with a finished run: its folder, its data, and who is told how far that is."""


class Reports(NamedTuple):
    """Who wants to know what: of every epoch, now and then of the epochs done, and what else is."""

    on_epoch: OnEpoch
    on_step: OnStep = lambda *_: None
    on_note: OnNote = lambda *_: None
    on_start: OnStart = lambda *_: None

    def tell(self, run: Recipe, news: News) -> None:
        """Hand on what a run tells to the one who wants to know."""
        if isinstance(news, Epoch):
            self.on_epoch(run, news)
        elif isinstance(news, Start):
            self.on_start(run, news)
        elif isinstance(news, str):
            self.on_note(run, news)
        else:
            self.on_step(run, news)
