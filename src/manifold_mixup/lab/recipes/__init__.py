"""Recipes: all settings that determine the result of a training, as a value.

Given the name of a recipe, a data set and a model, it returns the settings for no mixup, input
mixup and manifold mixup. It imports neither torch nor data.

Imported by: candidates, commands, data, launch, models, paper, playground, report, runs, search,
terminal, training.
"""
