#!/usr/bin/env bash
# TorchUncertainty 0.13.0: VariationRatio takes the examples of a batch for the estimators of an ensemble.
#
# Expected: the metric documents probabilities of shape (examples, estimators, classes), like Disagreement and MutualInformation, and
# is 1 minus the share of the chosen class over the estimators: one value for each example with reduction="none".
# Seen: it exchanges the first two axes before it computes. So it compares the examples within each estimator, and gives one value
# for each estimator. An ensemble that agrees perfectly on examples of different classes has a high ratio. The documented
# example prints 0.45, where the definition gives 0.35. The right values come from (estimators, examples, classes).
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 \
    "torch-uncertainty[cpu]==0.13.0" lightning==2.6.6 torchmetrics==1.9.0
env/bin/python -W ignore - <<'PY'
import torch
from torch_uncertainty.metrics.classification import Disagreement, VariationRatio


def values(metric, probs):
    metric.update(probs)
    return metric.compute().tolist()


def ratio(probs, **options):
    return [round(value, 4) for value in values(VariationRatio(reduction="none", **options), probs)]


documented = torch.tensor([[[0.7, 0.3], [0.6, 0.4], [0.8, 0.2]], [[0.4, 0.6], [0.5, 0.5], [0.3, 0.7]]])
mean = documented.mean(1)  # over the three estimators
defined = [round(value, 4) for value in (1 - mean.amax(1)).tolist()]
print("documented example: 2 examples, 3 estimators:", ratio(documented), "by the definition:", defined)
print("with the axes exchanged:", ratio(documented.transpose(0, 1)))

# Four examples, two of each class; three estimators that are sure and agree on each of them.
agreed = torch.eye(2)[[0, 1, 0, 1]].unsqueeze(1).expand(4, 3, 2)
apart = ratio(agreed, probabilistic=False)
print("estimators that agree:", apart, "Disagreement:", values(Disagreement(reduction="none"), agreed))
assert ratio(documented.transpose(0, 1)) == defined
assert ratio(documented) == [0.45] * 3 and apart == [0.5] * 3, "the axes are as documented: this has changed"
PY
