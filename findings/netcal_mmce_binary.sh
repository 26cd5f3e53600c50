#!/usr/bin/env bash
# netcal 1.4.0: for binary predictions in one dimension, MMCE takes the probability of class 1 for the confidence.
#
# Expected: the error is that of the predicted class and its probability, as its documentation says, and the same whether two classes
# are given as probabilities of class 1 (the documented form) or as two columns; near 0 for calibrated predictions.
# Seen: the predicted class is right, and its confidence is the probability of class 1, which is below 0.5 for class 0: a sure and right
# 0 counts as an error of almost 1. Calibrated predictions have an MMCE of 0.21, and of 0.007 as two columns.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 netcal==1.4.0 numpy==2.4.6
env/bin/python -W ignore - <<'PY'
import numpy as np
from netcal.metrics import MMCE


def by_definition(confidence, right):
    """Return the square root of the mean over all pairs of examples, with the documented kernel."""
    gap = right - confidence
    kernel = np.exp(-2.5 * np.abs(confidence[:, None] - confidence))
    return np.sqrt((gap[:, None] * gap * kernel).mean())


generator = np.random.default_rng(0)
positive = generator.random(2000)
labels = (generator.random(2000) < positive).astype(int)  # drawn with them: they are calibrated
exact = by_definition(np.maximum(positive, 1 - positive), (labels == (positive > 0.5)).astype(float))
one = MMCE().measure(positive, labels)
two = MMCE().measure(np.stack([1 - positive, positive], 1), labels)
sure = MMCE().measure(np.full(100, 0.01), np.zeros(100, dtype=int))
print(f"by the definition {exact:.4f}, two columns {two:.4f}, one dimension {one:.4f}; 100 sure and right predictions of 0: {sure:.4f}")
assert abs(two - exact) < 1e-9
assert one > 10 * exact and abs(sure - 0.99) < 1e-9, "the confidence is that of the predicted class: this has changed"
PY
