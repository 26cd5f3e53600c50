"""Training one run: the loop, and the parts of a training step.

Given a recipe and a `Data`, it returns the result, which is bit-identical however often the
training was stopped and resumed.

Imported by: candidates, commands, launch, playground, search.
Imports: data, evaluate, models, recipes, runs.
"""
