"""What the accuracy under FGSM does not show: examples without a gradient stay where they are."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from manifold_mixup.lab.evaluate import Scores
from manifold_mixup.lab.runs.result import Result

_LEAST = 1.0
"""Percent of the examples, so that the accuracy is off by less than a point without a word."""


def unmoved(methods: Mapping[str, Sequence[Scores]]) -> str:
    """Return which methods have examples that FGSM does not move; empty if none has a percent.

    Args:
        methods: the scores of each method, by its name; those of earlier versions do not count.
    """
    known = {
        name: [score.fgsm_unmoved for score in scores if math.isfinite(score.fgsm_unmoved)]
        for name, scores in methods.items()
    }
    shares = {name: fmean(values) for name, values in known.items() if values}
    phrases = [f"{share:.3g} % with {name}" for name, share in shares.items() if share >= _LEAST]
    if not phrases:
        return ""
    return (
        f"FGSM leaves some examples as they are, because the gradient of their loss is zero or "
        f"points out of the bounds: of those that are predicted right, {', '.join(phrases)}. They "
        f"count as withstanding it, so the accuracy under FGSM is no measure of robustness there."
    )


def unmoved_in(results: Sequence[Result], methods: Sequence[str]) -> str:
    """Return `unmoved` of the last epoch of some results, for the methods of a table."""
    return unmoved(
        {name: [result.last for result in results if result.run.method == name] for name in methods}
    )
