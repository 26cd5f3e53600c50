"""Training one run: the loop, and the parts that a step needs.

Takes a recipe and a `Data`. Gives the result, with the same bits however often the training was
stopped and resumed.

Imported by: commands, launch, playground.
Imports: data, evaluate, models, recipes, runs.
"""
