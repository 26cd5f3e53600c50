"""Attachment: the hooks on a model, and the forward passes that they see.

Takes a model, the names of layers, and a function that gives the plan of the next pass. Mixes at
the layer of the plan, eagerly, compiled and in recomputed checkpoints, and leads from an output
back to the pass that made it, which a loss has to claim.

Imported by: _checks, _mixup.
Imports: _dry_run, _structure.
"""
