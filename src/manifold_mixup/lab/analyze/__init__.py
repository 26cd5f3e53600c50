"""Why manifold mixup works: the paper's theorem as an experiment.

Given a number of classes, the parameter of the mixing distribution and dimensions, it minimises the
theorem's objective for each dimension, and compares the minimum with the theorem.

Imported by: commands, report.
"""
