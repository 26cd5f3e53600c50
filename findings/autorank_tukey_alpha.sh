#!/usr/bin/env bash
# autorank 1.3.0: with three or more normal populations, alpha changes no interval.
#
# Expected: alpha is the "significance level", with a correction such that "all results (incl. confidence intervals) together fulfill
# this confidence level": a smaller alpha gives wider intervals.
# Seen: Tukey's test is called without it, at its default of 0.05. For alpha = 0.1, 0.05 and 0.001 the intervals are the same to the
# last digit, while the result reports the alpha that was asked for; so which differences count as significant does not depend on it.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile autorank==1.3.0 numpy==2.4.6 pandas==2.3.3 scipy==1.17.1 statsmodels==0.15.0
MPLBACKEND=Agg env/bin/python -W ignore - <<'PY'
import contextlib
import io

import numpy as np
import pandas as pd
from autorank import autorank
from statsmodels.stats.multicomp import MultiComparison

generator = np.random.default_rng(0)
scores = pd.DataFrame(generator.normal(size=(30, 3)) + [0, 0.5, 1], columns=["a", "b", "c"])
long = scores.melt()
widths = {}
for alpha in (0.1, 0.05, 0.001):
    with contextlib.redirect_stdout(io.StringIO()):
        result = autorank(scores, alpha=alpha)
    assert (result.omnibus, result.posthoc, result.alpha) == ("anova", "tukeyhsd", alpha)
    widths[alpha] = float((result.rankdf.ci_upper - result.rankdf.ci_lower).iloc[0])
    tukey = MultiComparison(long["value"], long["variable"]).tukeyhsd(alpha=alpha)
    tukey.plot_simultaneous()  # statsmodels computes the half widths for its plot
    asked = 2 * float(np.mean(tukey.halfwidths))
    print(f"alpha {alpha}: width by autorank {widths[alpha]:.4f}, by Tukey's test at this alpha {asked:.4f}")
    assert (abs(asked - widths[alpha]) < 1e-9) == (alpha == 0.05)
assert len(set(widths.values())) == 1, "alpha changes the intervals: this has changed"
PY
