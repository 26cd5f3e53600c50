#!/usr/bin/env bash
# autorank 1.3.0: the p-value of two populations that are not normal is half of that of Wilcoxon's signed rank test.
#
# Expected: the p-value "for the difference in central tendency" of Wilcoxon's signed rank test, which the documentation names; it is
# below 0.05 for at most 5 % of pairs of populations without a difference, as it is for normal ones (a paired t-test, two-sided).
# Seen: the population with the larger median is looked up first, and then a one-sided test asks whether it is larger. So the p-value
# is half of the two-sided one, and almost twice as many differences as allowed are found where there are none. Where the paired
# differences point the other way than the medians, it is near 1. "one-sided" is only in a line that verbose=True prints.
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
from scipy.stats import wilcoxon

SETS = 600
generator = np.random.default_rng(0)
compared, ratios, found, allowed = 0, [], 0, 0
for _ in range(SETS):
    scores = pd.DataFrame(generator.exponential(size=(30, 2)), columns=["a", "b"])  # no difference
    with contextlib.redirect_stdout(io.StringIO()):
        result = autorank(scores, alpha=0.05)
    if result.omnibus != "wilcoxon":
        continue
    exact = wilcoxon(scores["a"], scores["b"]).pvalue
    compared += 1
    found += result.pvalue < 0.05
    allowed += exact < 0.05
    if exact < 0.1:
        ratios.append(result.pvalue / exact)
half = sum(abs(ratio - 0.5) < 0.01 for ratio in ratios)
print(f"{compared} pairs without a difference: {found / compared:.1%} have p < 0.05, {allowed / compared:.1%} by the two-sided test")
print(f"of {len(ratios)} pairs with a two-sided p below 0.1, {half} have half of it, the others {max(ratios):.1f} times it at the most")
assert compared > 0.9 * SETS and half > 0.8 * len(ratios), "the test is two-sided: this has changed"
assert found > 1.4 * allowed and max(ratios) > 5
PY
