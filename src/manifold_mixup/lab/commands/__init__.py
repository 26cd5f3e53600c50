"""The commands of ``manifold-mixup``: a file or folder each, imported when the command is run.

Each has ``Options``, the dataclass that the command line is parsed into; ``prepare``, which
checks the options before any work starts; and ``run``, which works on the result of ``prepare``.
No other room imports them.

Imports: analyze, data, evaluate, launch, models, paper, playground, recipes, report, runs, search,
terminal, training.
"""
