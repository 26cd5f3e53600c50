"""``manifold-mixup reproduce``: a table of the paper, with the paper's numbers beside ours."""

from manifold_mixup.lab.commands.reproduce.options import Options
from manifold_mixup.lab.commands.reproduce.setup import prepare
from manifold_mixup.lab.commands.reproduce.training import run

__all__ = ["Options", "prepare", "run"]
