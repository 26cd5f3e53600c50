"""A search for the settings of each way of mixing, by an equal budget of trials.

A trial trains a recipe with some settings and several seeds, and is measured on validation
examples only. The trials are kept in a file of Optuna, so that a search can be resumed. Given the
same seed, a search tries the same settings, wherever it was stopped and however many runs are
trained in parallel.

Imported by: commands, report.
Imports: data, evaluate, launch, models, recipes, runs, training.
"""
