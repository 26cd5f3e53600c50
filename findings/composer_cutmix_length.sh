#!/usr/bin/env bash
# Composer (mosaicml) 0.32.1: cutmix_batch(length=...) pastes a box of the area that should be left.
#
# Expected: length is "a fraction of H and W, and the resulting box is of size (length * H, length * W)" (before it is clipped at the
# edges): 0.1 is a small box, 1 is the whole image.
# Seen: the area of that box is handed on as the share of the image that is kept. length=0.1 pastes a box with sides of 30 of 32
# pixels, a larger length a smaller box, and length=1 pastes nothing. The share that is returned fits the pixels, so the labels are
# right for what was pasted. (A box that is given, or a share that is drawn, is not affected.)
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.7.0 torchvision==0.22.0 mosaicml==0.32.1 numpy==2.2.6
env/bin/python -W ignore - <<'PY'
import numpy as np
import torch
from composer.functional import cutmix_batch

SIDE, CALLS = 32, 200
images = torch.arange(8.0).reshape(8, 1, 1, 1).expand(8, 1, SIDE, SIDE).contiguous()  # image i is i everywhere
labels = torch.arange(8)
np.random.seed(0)
torch.manual_seed(0)
largest = {}
for length in (0.1, 0.25, 0.5, 0.75, 1.0):
    sides = []
    for _ in range(CALLS):
        cut, _, kept, box = cutmix_batch(images, labels, length=length, indices=labels.roll(1))
        pasted = (cut != images).float().mean().item()
        assert abs(1 - kept - pasted) < 1e-6
        sides += [int(box[2] - box[0]), int(box[3] - box[1])]
    largest[length] = max(sides)
    print(f"length={length}: largest side of the box {largest[length]} pixels, by the documentation {int(length * SIDE)}")
assert largest[0.1] >= 30 and largest[0.25] > 16 and largest[0.75] < 24 and largest[1.0] == 0, "this has changed"
PY
