#!/usr/bin/env bash
# Keras 3.15.1: the MixUp layer mixes segmentation masks with the first pixels of the first mask, not with the partner's masks.
#
# Expected: masks of shape (batch, height, width, 1) come back in that shape, weight * mask + (1 - weight) * partner's mask, as
# images do; a batch of constant masks 0, 1 and 2 gives constant masks.
# Seen: (3, 4, 4, 1) comes back as (3, 4, 4, 3): the order of the batch is taken along the flattened masks, without an axis. All
# "partners" are the first few pixels of the first mask, so that every mask is mixed with class 0.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 keras==3.15.1 numpy
KERAS_BACKEND=torch env/bin/python - <<'PY'
import keras
import numpy as np

masks = np.ones((3, 4, 4, 1), "float32") * np.arange(3, dtype="float32").reshape(3, 1, 1, 1)
images = np.repeat(masks, 3, axis=-1)
layer = keras.layers.MixUp(alpha=1.0, seed=1)
mixed = layer({"images": images, "segmentation_masks": masks}, training=True)
got_images = np.asarray(mixed["images"])
got_masks = np.asarray(mixed["segmentation_masks"])
print("images", got_images.shape, got_images[:, 0, 0, 0])
print("masks ", got_masks.shape, got_masks[:, 0, 0, 0])
assert got_images.shape == (3, 4, 4, 3) and np.ptp(got_images, axis=(1, 2, 3)).max() == 0
assert got_masks.shape == (3, 4, 4, 3), "the shape is kept now: this has changed"
assert not np.allclose(got_masks[..., 0], got_images[..., 0]), "images and masks agree now"
PY
