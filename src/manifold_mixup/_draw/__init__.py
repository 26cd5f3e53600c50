"""Draw: which plan comes next.

Takes the settings of a run and the step. Returns a `MixPlan`: a function of (seed, rank, step)
alone, unless the user overrides it or it depends on the targets. Every random number of the library
comes from here.

Imported by: _mixup.
Imports no other room.
"""
