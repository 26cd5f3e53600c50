#!/usr/bin/env bash
# probmetrics 1.3.0: the proper calibration losses of two classes are not zero for predictions that need no calibration.
#
# Expected: ProperLpLoss is, as its documentation says, -|g - f| + <subgradient, y - g> for the predictions f and their calibrated
# values g: 0 where g = f. With binary_as_multiclass=False, the default, f and g are the probabilities of class 1.
# Seen: g and y are reduced to class 1, and f keeps both columns, so that g is also set against the probability of class 0. In the mean
# of 500 predictions the loss is -0.48 for g = f, and so is that of the top class, which takes this form. The form with two columns is
# right.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 probmetrics==1.3.0 numpy==2.4.6 scikit-learn==1.9.1 numba==0.68.1 pandas==2.3.3
env/bin/python -W ignore - <<'PY'
import torch
from probmetrics.distributions import CategoricalDirac, CategoricalProbs
from probmetrics.metrics import ProperLpLoss, TopClassLoss

COUNT = 500
generator = torch.Generator().manual_seed(0)
before = torch.rand(COUNT, generator=generator)
after = (before + 0.2 * (torch.rand(COUNT, generator=generator) - 0.5)).clamp(0, 1)
labels = (torch.rand(COUNT, generator=generator) < after).long()


def columns(positive):
    return CategoricalProbs(torch.stack([1 - positive, positive], 1))


def loss(metric, g, f):
    return metric.compute(CategoricalDirac(labels, n_classes=2), columns(g), f_x=columns(f)).item()


for g, name in ((before, "g = f"), (after, "g near f")):
    exact = (-(g - before).abs() - torch.sign(g - before) * (labels - g)).mean().item()  # in one dimension, for every p
    one, two = loss(ProperLpLoss(1), g, before), loss(ProperLpLoss(1, binary_as_multiclass=True), g, before)
    top = loss(TopClassLoss(ProperLpLoss(1)), g, before)
    print(f"{name}: by the definition {exact:.4f}; one dimension {one:.4f}, top class {top:.4f}, half of two columns {two / 2:.4f}")
    assert abs(two / 2 - exact) < 1e-5
    assert one < exact - 0.3, "it follows the definition: this has changed"
    assert top < exact - 0.3
PY
