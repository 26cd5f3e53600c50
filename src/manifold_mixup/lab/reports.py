"""What many runs tell the one who started them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes import Run
from manifold_mixup.lab.results import Epoch

OnEpoch = Callable[[Run, Epoch], None]
OnStep = Callable[[Run, float], None]
After = Callable[[Path, Data], object]


class Reports(NamedTuple):
    """Who wants to know what: of every epoch, and now and then how many epochs are done."""

    on_epoch: OnEpoch
    on_step: OnStep = lambda *_: None

    def tell(self, run: Run, news: Epoch | float) -> None:
        """Hand on an epoch, or the number of epochs a run has done, parts counted."""
        if isinstance(news, Epoch):
            self.on_epoch(run, news)
        else:
            self.on_step(run, news)
