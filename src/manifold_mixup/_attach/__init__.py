"""Attachment: the hooks on a model, and the forward passes that they see.

Takes a model, the names of layers, and a function that returns the plan of the next pass. Mixes at
the plan's layer: eagerly, in compiled code and in recomputed checkpoints. Traces an output back to
its forward pass, which a loss must claim.

Imported by: _checks, _mixup.
Imports: _dry_run, _structure, _weigh.
"""
