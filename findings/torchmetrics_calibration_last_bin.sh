#!/usr/bin/env bash
# TorchMetrics 1.9.0: predictions with a confidence of exactly 1 are in a bin of their own, one more than n_bins.
#
# Expected: the bins divide the interval from 0 to 1, both included, into n_bins parts; with n_bins=1 the error is |accuracy - mean
# confidence| of all examples.
# Seen: there are n_bins + 1 bins, of which the last holds only 1. In float32, in which the metric computes, that is no rare value: it is
# the softmax of logits that are 20 apart. Errors of both signs that cancel out in the last bin do not any more: one bin gives 0.25 here,
# where by the definition it is 0.15; with logits 15 apart, a probability smaller by less than one millionth, it gives 0.15.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchmetrics==1.9.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from torchmetrics.functional.classification import multiclass_calibration_error


def by_definition(confidence, right, count):
    """Return the sum over count bins of |accuracy - confidence|, as a share of the examples."""
    place = (confidence * count).long().clamp(max=count - 1)
    return sum(abs((right - confidence)[place == part].sum().item()) for part in range(count)) / len(confidence)


labels = torch.tensor([0] * 30 + [1] * 20 + [0] * 50)  # sure predictions are right in 60 %, the others, with 0.91, always
for apart in (20.0, 15.0):
    logits = torch.tensor([[apart, 0.0, 0.0]] * 50 + [[3.0, 0.0, 0.0]] * 50)
    confidence, predicted = logits.softmax(1).max(1)
    ones = (confidence == 1).sum().item()
    for count in (1, 5, 10):
        value = multiclass_calibration_error(logits, labels, num_classes=3, n_bins=count).item()
        exact = by_definition(confidence, (predicted == labels).float(), count)
        print(f"logits {apart:.0f} apart, {ones} of exactly 1, n_bins={count}: {value:.4f}, by the definition {exact:.4f}")
        assert ones == 50 or abs(value - exact) < 1e-5
        assert ones == 0 or value > exact + 0.05, "1 is in the last bin: this has changed"
    assert ones == (50 if apart == 20 else 0)
PY
