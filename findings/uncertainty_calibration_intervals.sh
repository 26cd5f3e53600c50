#!/usr/bin/env bash
# uncertainty-calibration 0.1.4: the confidence intervals of a calibration error take alpha for per cent, so all are nearly 100 %.
#
# Expected: get_calibration_error_uncertainties(alpha=0.1), its default, gives "1-alpha confidence intervals", of 90 %, and alpha=0.5
# one of 50 %, which is about 0.41 times as wide.
# Seen: alpha / 2 goes to numpy.percentile, which counts from 0 to 100. The interval runs from the 0.05th to the 99.95th percentile
# of 100 bootstrap samples, which is their range; that of alpha=0.9 has nearly the same width. alpha=10 gives the one of 90 %.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile uncertainty-calibration==0.1.4 numpy==2.4.6 scikit-learn==1.9.1
env/bin/python -W ignore - <<'PY'
import calibration
import numpy as np

generator = np.random.default_rng(0)
probs = generator.uniform(0, 1, 2000)
labels = (generator.random(2000) < probs**2).astype(int)
width = {}
for alpha in (0.1, 0.5, 0.9, 10, 50):
    np.random.seed(0)  # the same bootstrap samples for each
    low, _, high = calibration.get_calibration_error_uncertainties(probs, labels, p=1, alpha=alpha)
    width[alpha] = high - low
    print(f"alpha {alpha}: from {low:.4f} to {high:.4f}, width {width[alpha]:.4f}")
print(f"width for 50 % by that for 90 %: {width[0.5] / width[0.1]:.2f}; with per cent {width[50] / width[10]:.2f}")
assert width[50] / width[10] < 0.6
assert width[0.9] / width[0.1] > 0.9, "alpha is a share: this has changed"
PY
