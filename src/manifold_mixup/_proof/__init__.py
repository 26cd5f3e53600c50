"""Proof: whether mixing at a layer mixes the outputs and nothing else, by numbers.

Takes a model, one batch, and a function that runs a dry run of it mixed by a plan. Gives a
`Report`: for each layer, whether λ = 0 permutes the outputs and their gradients, and λ = 1 leaves
them.

Imported by: _find, _checks, _mixup.
Imports: _dry_run, _structure.
"""
