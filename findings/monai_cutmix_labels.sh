#!/usr/bin/env bash
# MONAI 1.6.1: CutMix gives the class labels of a batch entirely to the partners.
#
# Expected: called with images and one-hot labels, as its documentation shows, CutMix mixes the labels by about the share of the
# image that was pasted; it has a method apply_on_labels that does so.
# Seen: the call never uses that method. It cuts the labels as if they were images with no axes, so that the box is everything:
# each label is the partner's alone, also where 98 % of the image are its own. Nothing is said. With apply_on_labels, called by
# hand, the share is the drawn weight, but the box begins at a random corner and is clipped at the far edges: in the mean 90 % of
# an image are its own here, and 47 % of its label.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 monai==1.6.1 numpy
env/bin/python -W ignore - <<'PY'
import torch
from monai.transforms import CutMix

COUNT = 64
number = torch.arange(COUNT, dtype=torch.float32)
images = number.reshape(COUNT, 1, 1, 1).expand(COUNT, 1, 32, 32).clone()  # image i is i everywhere
labels = torch.eye(COUNT)

cutmix = CutMix(batch_size=COUNT, alpha=1.0)
cutmix.set_random_state(0)
cut, given = cutmix(images, labels)
partner = torch.as_tensor(cutmix._params[1])
others = partner != torch.arange(COUNT)
own = (cut == images).float().mean((1, 2, 3))[others]
by_hand = cutmix.apply_on_labels(labels).diagonal()[others]
print(f"own share of an image: mean {own.mean():.2f}, greatest {own.max():.2f}")
print(f"own share of a label:  mean {given.diagonal()[others].mean():.2f}")
print(f"by apply_on_labels:    mean {by_hand.mean():.2f}")
assert torch.equal(given, labels[partner]), "not the partner's label alone any more: this has changed"
assert own.max() > 0.95 and own.mean() > by_hand.mean() + 0.1
PY
