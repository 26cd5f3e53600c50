"""Targets: the loss that the output of a mixed pass should have.

Takes a criterion, the arguments of its call, and a `MixPlan`. Gives the loss at both ends, weighted
by λ, or the loss of an interpolated target. Knows no model: `MixedCriterion` is given a function
that says where an output comes from.

Imported by: _mixup.
Imports no other room.
"""
