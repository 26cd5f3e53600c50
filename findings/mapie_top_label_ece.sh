#!/usr/bin/env bash
# MAPIE 1.6.0: top_label_ece gives each predicted label the same weight, however rarely it is predicted.
#
# Expected: the error that its reference (Gupta and Ramdas 2021) defines: the expectation over the examples of the gap between
# confidence and accuracy, given confidence and predicted label. A label that 1 % of the examples get has a weight of 1 %.
# Seen: the errors of the labels are added and divided by the number of labels. A model that is calibrated on 99 % of the examples,
# and sure and wrong on 1 %, has an error of 0.45 in place of 0.009. Nothing says that this is an average over labels.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile mapie==1.6.0 numpy==2.4.6 scikit-learn==1.9.1
env/bin/python - <<'PY'
import numpy as np
from mapie.metrics.calibration import top_label_ece

values, defined = [], []
for rare in (10, 100, 500):  # of 1000 examples, those for which label 1 is predicted, always wrongly
    probs = np.tile([0.9, 0.1], (1000, 1))
    probs[:rare] = [0.1, 0.9]
    common = np.arange(1000) >= rare
    labels = np.where(np.cumsum(common) <= 0.9 * common.sum(), 0, 1)  # label 0 is right for 90 %, as its score says
    labels[:rare] = 0
    chosen = probs.argmax(1)
    gaps = [abs((probs[chosen == k, k] - (labels[chosen == k] == k)).sum()) for k in (0, 1)]
    values.append(top_label_ece(labels, probs, num_bins=10))
    defined.append(sum(gaps) / 1000)
    print(f"label 1 predicted for {rare} of 1000: top_label_ece {values[-1]:.4f}, by the definition {defined[-1]:.4f}")
assert np.allclose(defined, [0.009, 0.09, 0.45])
assert np.allclose(values, 0.45), "labels weigh by their share: this has changed"
PY
