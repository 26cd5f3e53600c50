"""Tasks on which manifold mixup might beat input mixup, registered before they were run.

Given the name of a task and a folder of data, it searches settings on development draws, freezes
them, and then trains each way with ten fresh seeds on fresh draws. ``results/candidates/README.md``
has the rules; ``python -m manifold_mixup.lab.candidates`` runs them. Nothing imports this room.

Imports: data, evaluate, models, recipes, runs, training.
"""
