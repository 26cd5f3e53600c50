"""A run as a folder: recipe, checkpoints, metrics, weights, result and evaluations.

Takes a recipe and what its training gives. Writes each file at once or not at all, so that a run
resumes from any moment, and reads finished runs back.

Imported by: commands, launch, paper, report, training.
Imports: data, evaluate, models, recipes.
"""
