"""Dry runs: run the user's own model on other tensors, and leave no trace.

Takes a model and sets it up to run on stand-ins for its parameters, buffers and all other tensors
it can reach (fake tensors if the model allows), with its randomness neutralised. Afterwards
everything is restored.

Imported by: _attach, _structure, _proof, _checks, _mixup, _inspect.
Imports no other room.
"""
