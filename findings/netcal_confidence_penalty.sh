#!/usr/bin/env bash
# netcal 1.4.0: the ConfidencePenalty for PyTorch rewards confident predictions.
#
# Expected: as a "penalty term [that] can be applied to any loss function", it is the negative entropy of the predictions times the
# weight, as in the paper and as netcal's function confidence_penalty for NumPy returns: to decrease it lowers the confidence.
# Seen: it is the positive entropy. A step of gradient descent raises the confidence from 0.79 to 0.83. With a threshold, the other
# option of the class, it raises a TypeError.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 netcal==1.4.0 numpy==2.4.6
env/bin/python -W ignore - <<'PY'
import torch
from netcal.regularization import ConfidencePenalty, confidence_penalty

logits = torch.tensor([[2.0, 0.0, 0.0]], requires_grad=True)
before = torch.softmax(logits, 1)
penalty = ConfidencePenalty(weight=1.0, reduction="batchmean")(logits)
penalty.backward()
after = torch.softmax(logits - 0.5 * logits.grad, 1)
by_numpy = confidence_penalty(before.detach().numpy(), weight=1.0)
entropy = torch.distributions.Categorical(before).entropy().item()
print(f"entropy {entropy:.4f}; penalty by NumPy {by_numpy:.4f}, by PyTorch {penalty.item():.4f}")
print(f"largest probability {before.max().item():.4f}, after a step that decreases the penalty {after.max().item():.4f}")
assert abs(by_numpy + entropy) < 1e-4
assert abs(penalty.item() - entropy) < 1e-4 and after.max() > before.max() + 0.03, "confidence costs now: this has changed"
try:
    ConfidencePenalty(weight=1.0, threshold=1.0)(logits)
except TypeError as error:
    print("with a threshold:", type(error).__name__, error)
else:
    raise AssertionError("a threshold works now: this has changed")
PY
