#!/usr/bin/env bash
# Adversarial Robustness Toolbox 1.20.1: CutMix mixes the labels of images that are not square, and leaves many images unchanged.
#
# Expected: the partner has about the share of a label that was pasted into the image, whatever its height and width.
# Seen: the box is drawn with its columns within the width and its rows within the height, and then used the other way round. In an
# image of 16 x 64 most of the drawn columns are no rows: 43 % of the images are unchanged, while their labels are mixed by the drawn
# weight; in the mean 94 % of an image is its own, and 49 % of its label. In square images the axes do not matter; there the label
# merely counts the part of the box that the edges cut off as well, and 70 % of an image is its own. Nothing is said.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile adversarial-robustness-toolbox==1.20.1 numpy==2.4.6 packaging
env/bin/python -W ignore - <<'PY'
import numpy as np
from art.defences.preprocessor import CutMix

COUNT, CALLS = 64, 200
labels = np.eye(COUNT, dtype=np.float32)
unchanged = {}
for height, width in ((32, 32), (16, 64), (64, 16)):
    number = np.arange(COUNT, dtype=np.float32).reshape(COUNT, 1, 1, 1)
    images = np.broadcast_to(number, (COUNT, 1, height, width)).copy()  # image i is i everywhere
    cutmix = CutMix(num_classes=COUNT, channels_first=True, probability=1.0)
    np.random.seed(0)
    image_share, label_share = [], []
    for _ in range(CALLS):
        cut, mixed = cutmix(images, labels)
        others = np.diagonal(mixed) < 0.99  # without those that are their own partner
        image_share.append((cut == images).mean((1, 2, 3))[others])
        label_share.append(np.diagonal(mixed)[others])
    image_share, label_share = np.concatenate(image_share), np.concatenate(label_share)
    unchanged[height, width] = (image_share == 1).mean()
    print(f"{height} x {width}: own share of an image {image_share.mean():.2f}, of a label {label_share.mean():.2f}; "
          f"unchanged with a mixed label: {unchanged[height, width]:.0%}")
assert unchanged[32, 32] < 0.1
assert min(unchanged[16, 64], unchanged[64, 16]) > 0.3, "boxes lie within the images: this has changed"
PY
