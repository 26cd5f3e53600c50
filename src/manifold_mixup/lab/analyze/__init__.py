"""Why it works: the theorem as an experiment.

Takes a number of classes, the shape of the mixing distribution and dimensions. Gives the least
objective that was found for each dimension, beside what the theorem says of it.

Imported by: commands, report.
"""
