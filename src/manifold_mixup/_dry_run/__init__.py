"""Dry runs: run the user's own model on other tensors, and leave no trace of it.

Takes a model. Gives it back set up to run on stand-ins for its parameters, buffers and whatever
else it can reach (fake tensors where it allows that), with its randomness neutralised. Afterwards
everything is what it was.

Imported by: _attach, _structure, _proof, _find, _checks, _mixup.
Imports no other room.
"""
