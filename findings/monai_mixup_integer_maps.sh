#!/usr/bin/env bash
# MONAI 1.6.1: MixUp of integer label maps cuts what it has mixed to whole numbers, so that maps get classes of third regions.
#
# Expected: integer maps (class indices, as segmentation data sets have them) are refused as class ids of shape (batch,) are, or
# come back as floating point, since 0.56 * 0 + 0.44 * 3 is no class.
# Seen: int64 maps come back as int64. Mixed from 0 and 3 only, they hold the classes 1 and 2, of which there is nothing in any
# image; the same maps in floating point give 1.31 and so on. Nothing is said.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 monai==1.6.1 numpy
env/bin/python -W ignore - <<'PY'
import torch
from monai.transforms import MixUp

images = torch.zeros(4, 1, 4, 4)
maps = torch.zeros(4, 1, 4, 4, dtype=torch.int64)
maps[2:] = 3


def mixed(labels):
    mixup = MixUp(batch_size=4, alpha=1.0)
    mixup.set_random_state(0)
    return torch.as_tensor(mixup(images, labels)[1])[:, 0, 0, 0]


whole, exact = mixed(maps), mixed(maps.float())
print("integers      ", whole.dtype, whole.tolist())
print("floating point", exact.dtype, [round(value, 4) for value in exact.tolist()])
assert whole.dtype == torch.int64, "not integers any more: this has changed"
assert torch.equal(whole, exact.long()) and set(whole.tolist()) & {1, 2}
PY
