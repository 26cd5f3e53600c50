#!/usr/bin/env bash
# pytorch-ood 0.4.0: CACLoss compares an example with its own class, and never with the last class.
#
# Expected: its documented loss, alpha d_y + log(1 + sum over the other classes c of exp(d_y - d_c)) with squared distances d.
# Seen: the "other" classes of every example are all but the last, for the case of the last class is looked for at number n_classes,
# which no label has. The example's own class adds exp(0), so that a perfect example has a loss of log 2; the distance to the last
# anchor has no gradient, so that examples of other classes are not kept away from it. Only the last class itself is treated rightly.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 pytorch-ood==0.4.0
env/bin/python -W ignore - <<'PY'
import torch
from pytorch_ood.loss import CACLoss

CLASSES = 4
criterion = CACLoss(CLASSES, alpha=0.1)


def documented(distances, label):
    others = [c for c in range(CLASSES) if c != label]
    return 0.1 * distances[label] + torch.log(1 + torch.exp(distances[label] - distances[others]).sum())


for label in range(CLASSES):
    distances = torch.full((1, CLASSES), 40.0)
    distances[0, label] = 0.0  # on the anchor of its class, far from all others
    far = criterion(distances, torch.tensor([label])).item()
    distances[0, -1 if label < CLASSES - 1 else 0] = 0.5  # and now near another one
    distances.requires_grad_()
    near = criterion(distances, torch.tensor([label]))
    near.backward()
    wanted = documented(distances.detach()[0], label).item()
    print(f"class {label}: far from the others {far:.3f}; near one {near:.3f}, documented {wanted:.3f},", end=" ")
    print("gradient", [round(value, 3) for value in distances.grad[0].tolist()])
    if label == CLASSES - 1:
        assert far < 1e-6 and abs(near.item() - wanted) < 1e-6
    else:
        assert abs(far - torch.tensor(2.0).log().item()) < 1e-6, "the own class is left out: this has changed"
        assert distances.grad[0, -1] == 0, "the last class counts: this has changed"
PY
