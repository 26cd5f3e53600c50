"""A run as a folder: recipe, checkpoints, metrics, weights, result and evaluations.

All files are written atomically, so that a run can resume after being killed at any moment.
Finished runs are read back from their folders.

Imported by: candidates, commands, launch, paper, report, search, training.
Imports: data, evaluate, models, recipes.
"""
