"""Many runs: one after another, in worker processes, or on a Ray cluster.

Takes recipes and a data set. Gives their results as they finish, and tells callbacks how far they
are. Ctrl-C stops all of them between two steps.

Imported by: commands.
Imports: data, recipes, runs, training.
"""
