"""Recipes: everything that decides what a training ends in, as a value.

Takes the name of a recipe, a data set and a model. Gives the same training with no mixup, input
mixup and manifold mixup. Loads neither torch nor data.

Imported by: commands, data, launch, models, paper, playground, report, runs, terminal, training.
"""
