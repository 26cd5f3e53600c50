"""Proof: test numerically whether mixing at a layer mixes the outputs and nothing else.

Takes a model, one batch, and a function that runs the model in a dry run, mixed by a plan. Returns
a `Report`: for each layer, whether λ = 0 permutes the outputs and their gradients, and λ = 1 leaves
them unchanged.

Imported by: _checks, _mixup, _inspect.
Imports: _dry_run, _structure.
"""
