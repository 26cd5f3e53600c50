"""``python -m manifold_mixup.lab.choose`` runs ``commands/tune.py``."""

import tyro

from manifold_mixup.lab.commands.tune import Options, run

if __name__ == "__main__":
    run(tyro.cli(Options))
