#!/usr/bin/env bash
# probmetrics 1.3.0: the one-dimensional Brier score of two classes is a sum over the examples.
#
# Expected: BrierLoss(binary_as_multiclass=False), or "brier-binary-as-1d", is (p - y)^2 for each example and its mean for a data set,
# half of the value of the form with two columns, as the documentation says, and equal to scikit-learn's.
# Seen: the squares are summed over the examples, where the other form sums over the classes, and the mean is of that one number: for
# 1000 examples the score is 1000 times too large, and reduction="none" gives one number. It cannot be compared between data sets.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 probmetrics==1.3.0 numpy==2.4.6 scikit-learn==1.9.1 numba==0.68.1 pandas==2.3.3
env/bin/python -W ignore - <<'PY'
import torch
from probmetrics.metrics import BrierLoss, Metrics
from sklearn.metrics import brier_score_loss

NAMES = ["brier", "brier-binary-as-1d"]
generator = torch.Generator().manual_seed(0)
one = BrierLoss(binary_as_multiclass=False)
for count in (10, 100, 1000):
    positive = torch.rand(count, generator=generator)
    labels = (torch.rand(count, generator=generator) < positive).long()
    both = torch.stack([1 - positive, positive], 1)
    values = Metrics.from_names(NAMES).compute_all_from_labels_probs(labels, both)
    exact = brier_score_loss(labels.numpy(), positive.numpy())
    print(f"{count} examples: scikit-learn {exact:.4f},", ", ".join(f"{name} {values[name]:.4f}" for name in NAMES))
    assert abs(values["brier"] - 2 * exact) < 1e-5
    assert abs(values["brier-binary-as-1d"] - count * exact) < 1e-3 * count, "it is a mean: this has changed"
    assert one.compute_from_labels_probs(labels, both) == values["brier-binary-as-1d"]
PY
