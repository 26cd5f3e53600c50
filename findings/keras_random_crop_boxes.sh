#!/usr/bin/env bash
# Keras 3.15.1: RandomCrop moves bounding boxes with rows and columns exchanged, so that they leave their objects.
#
# Expected: of an image cropped at (row, column), a box comes back moved by the column in x and by the row in y, as CenterCrop does.
# Seen: the row is subtracted from x and the column from y. A bright rectangle and its box part by up to the difference of the two
# offsets, in square images too. Images and masks are cropped rightly. Nothing is said.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 keras==3.15.1 numpy
KERAS_BACKEND=torch env/bin/python -W ignore - <<'PY'
import keras
import numpy as np

images = np.zeros((1, 96, 96, 3), "float32")
images[0, 30:50, 40:70] = 255
boxes = np.array([[[40.0, 30, 70, 50]]], "float32")  # x and y of the first corner, x and y behind the last


def crop(kind, **options):
    """Return the corners of the bright pixels after the layer, and those of the box that it gives."""
    layer = getattr(keras.layers, kind)(72, 72, bounding_box_format="xyxy", **options)
    labels = np.zeros((1, 1), "float32")
    out = layer({"images": images, "bounding_boxes": {"boxes": boxes, "labels": labels}}, training=True)
    rows, columns = np.nonzero(np.asarray(out["images"])[0, :, :, 0] > 127)
    seen = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    return seen, np.asarray(out["bounding_boxes"]["boxes"])[0, 0].astype(int).tolist()


seen, given = crop("CenterCrop")
print("CenterCrop: pixels", seen, "box", given)
assert seen == given
for seed in range(4):
    seen, given = crop("RandomCrop", seed=seed)
    row, column = 30 - seen[1], 40 - seen[0]
    print(f"RandomCrop at row {row}, column {column}: pixels", seen, "box", given)
    exchanged = [40 - row, 30 - column, 70 - row, 50 - column]
    assert given == exchanged and (seen != given or row == column), "boxes stay with their pixels: this has changed"
PY
