#!/usr/bin/env bash
# calzone-tool 0.1.0: the Cox calibration of another class than 1 sets the labels of that class against the probabilities of class 1.
#
# Expected: with class_to_calculate=0 the labels and the probabilities of class 0 are compared, as in its other metrics: calibrated
# probabilities have a slope of 1 and an intercept of 0 for either class, and of two classes both have the same calibration index.
# Seen: the labels are those of class 0, but the probabilities are always column 1, so that calibrated ones have a slope of -1.
# CalibrationMetrics does not pass the class on; it fits class 1, and applies that fit to class 0 for the calibration index (ICI).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile calzone-tool==0.1.0 statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1
env/bin/python -W ignore - <<'PY'
import numpy as np
from calzone.metrics import CalibrationMetrics, cox_regression_analysis

generator = np.random.default_rng(0)
logits = generator.normal(1, 1.5, 20000)
labels = (generator.random(20000) < 1 / (1 + np.exp(-logits))).astype(int)
slopes, index = {}, {}
for shift in (0, 1):  # calibrated, and too sure of class 1
    one = 1 / (1 + np.exp(-logits - shift))
    probs = np.stack([1 - one, one], 1)
    for kind in (0, 1):
        slope, intercept = cox_regression_analysis(labels, probs, class_to_calculate=kind)[:2]
        slopes[shift, kind] = slope
        found = CalibrationMetrics(class_to_calculate=kind).calculate_metrics(labels, probs, ["COX", "Loess"])
        index[shift, kind] = found["COX ICI"]
        print(f"logits off by {shift}, class {kind}: slope {slope:.3f}, intercept {intercept:.3f};", end=" ")
        print(f"index by Cox {found['COX ICI']:.3f}, by Loess {found['Loess ICI']:.3f}")
assert abs(slopes[0, 1] - 1) < 0.05
assert abs(slopes[0, 0] + 1) < 0.05, "class 0 has a slope of 1: this has changed"
assert index[1, 0] < 0.8 * index[1, 1], "the index is the same for both classes: this has changed"
PY
