"""Weigh: mix a state as a plan says, all by λ or each position by its weight.

Takes a state, a `MixPlan`, and where the state holds the batch and positions. Returns the mixed
state, and what the plan means for it: the weights that were drawn or computed, and the share that
each target keeps. Knows neither models nor losses.

Imported by: _attach, _target.
Imports no other room.
"""
