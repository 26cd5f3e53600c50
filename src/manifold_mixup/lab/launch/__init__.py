"""Many runs: one after another, in worker processes, or on a Ray cluster.

It trains recipes on a data set, yields the results as they finish, and reports progress to
callbacks. Ctrl-C stops all runs between two steps.

Imported by: commands, search.
Imports: data, recipes, runs, terminal, training.
"""
