"""``manifold-mixup compare``: a few methods, several seeds, one table and one picture."""

from manifold_mixup.lab.commands.compare.options import Options
from manifold_mixup.lab.commands.compare.setup import prepare
from manifold_mixup.lab.commands.compare.training import run

__all__ = ["Options", "prepare", "run"]
