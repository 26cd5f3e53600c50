"""Targets: compute the loss for the output of a mixed pass.

Takes a criterion, the arguments of its call, and a `MixPlan`. Returns the losses at both ends (the
own targets and the partners'), weighted by λ, or the loss of an interpolated target. Knows no
model: `MixedCriterion` receives a function that returns the source of an output.

Imported by: _mixup.
Imports: _weigh.
"""
