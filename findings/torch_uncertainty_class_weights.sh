#!/usr/bin/env bash
# TorchUncertainty 0.13.0: which class has which weight makes no difference to CrossEntropyMaxSupLoss, and none at all to MixupMPLoss.
#
# Expected: weight is "a manual rescaling weight given to each class": an example counts by the weight of its class, as in PyTorch's
# CrossEntropyLoss, which both extend, and an example with a soft label by those of its classes.
# Seen: CrossEntropyMaxSupLoss with max_sup > 0 multiplies its mean by all weights and takes the mean of the products: only the mean
# of the weights matters. MixupMPLoss leaves the weights out for soft labels, the only kind that the transform MixupMP returns.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 \
    "torch-uncertainty[cpu]==0.13.0" lightning==2.6.6 torchmetrics==1.9.0
env/bin/python -W ignore - <<'PY'
import torch
from torch.nn.functional import cross_entropy
from torch_uncertainty.losses import CrossEntropyMaxSupLoss, MixupMPLoss
from torch_uncertainty.transforms.mixup import MixupMP

torch.manual_seed(0)
labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
logits = torch.randn(8, 3)
_, soft = MixupMP(alpha=1.0, num_classes=3)(torch.randn(8, 5), labels)
mixed = torch.randn(len(soft), 3)
exact, suppressed, mixup = [], [], []
for row in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
    weight = torch.tensor(row)
    exact.append(cross_entropy(logits, labels, weight=weight).item())
    suppressed.append(CrossEntropyMaxSupLoss(max_sup=1e-6, weight=weight)(logits, labels).item())
    mixup.append(MixupMPLoss(weight=weight)(mixed, soft).item())
    print(f"weights {row}: cross_entropy {exact[-1]:.4f}, MaxSup {suppressed[-1]:.4f}, MixupMP {mixup[-1]:.4f}")
plain = cross_entropy(logits, labels).item()
print(f"mean without weights, divided by three: {plain / 3:.4f}; MixupMP without weights {MixupMPLoss()(mixed, soft).item():.4f}")
assert max(exact) - min(exact) > 0.1
assert max(suppressed) - min(suppressed) < 1e-6 and abs(suppressed[0] - plain / 3) < 1e-4, "MaxSup minds them: this has changed"
assert mixup == [MixupMPLoss()(mixed, soft).item()] * 3, "MixupMP minds them: this has changed"
PY
