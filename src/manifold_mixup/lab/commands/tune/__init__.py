"""``manifold-mixup tune``: which way of mixing for these data, against no mixup tuned as much."""

from manifold_mixup.lab.commands.tune.options import Options
from manifold_mixup.lab.commands.tune.stages import run
from manifold_mixup.lab.commands.tune.tuning import prepare

__all__ = ["Options", "prepare", "run"]
