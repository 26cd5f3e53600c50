#!/usr/bin/env bash
# Keras 3.15.1: with PyTorch, RandomRotation turns segmentation masks another way than the images they belong to.
#
# Expected: images and masks that are given together are turned by the same angle about the same point, as they are shifted and
# sheared together; a mask that equals its image equals it afterwards.
# Seen: `keras.ops.image.affine_transform` writes into the transform that it is given: it exchanges the entries for x and y. The layer
# draws one matrix for both, so the masks, which come second, are turned about another point: they hardly overlap with the images.
# Two calls of the operator with the same matrix give different images. Shifts and shears make a new matrix for each call.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 keras==3.15.1 numpy
KERAS_BACKEND=torch env/bin/python -W ignore - <<'PY'
import keras
import numpy as np
import torch

row = torch.arange(4.0).view(1, 1, 4, 1)
left = torch.tensor([[1.0, 0, 1, 0, 1, 0, 0, 0]])  # each pixel is the one to its right: a shift along x
shifted = []
for call in ("first", "second"):
    shifted.append(keras.ops.image.affine_transform(row, left).flatten().tolist())
    print(f"{call} call: row", shifted[-1], "transform is now", left.tolist())
assert shifted == [[1, 2, 3, 0], [0, 0, 0, 0]], "the transform is left alone: this has changed"

images = np.zeros((1, 64, 64, 1), "float32")
images[0, 10:20, 30:50] = 1
overlaps = {}
for kind, given in (("RandomTranslation", (0.2, 0.2)), ("RandomShear", (0.3, 0.3)), ("RandomRotation", (0.1,))):
    layer = getattr(keras.layers, kind)(*given, interpolation="nearest", seed=1)
    overlaps[kind] = []
    for _ in range(4):
        pair = layer({"images": images.copy(), "segmentation_masks": images.copy()}, training=True)
        image, mask = (np.asarray(pair[name]) > 0.5 for name in ("images", "segmentation_masks"))
        overlaps[kind].append(round(float((image & mask).sum() / (image | mask).sum()), 2))
    print(kind, "overlap of image and mask (IoU):", overlaps[kind])
assert overlaps["RandomTranslation"] == overlaps["RandomShear"] == [1.0] * 4
assert max(overlaps["RandomRotation"]) < 0.5, "masks are turned as images are: this has changed"
PY
