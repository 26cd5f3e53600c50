"""The commands of ``manifold-mixup``, one file each, loaded when it is named.

Every file has ``Options``, the dataclass that the command line is read into; ``prepare``, which
checks all that can be checked beforehand; and ``run``, which does the work with what that returned.
No other room imports them.

Imported by: choose.
Imports: analyze, data, evaluate, launch, models, paper, playground, recipes, report, runs,
terminal, training.
"""
