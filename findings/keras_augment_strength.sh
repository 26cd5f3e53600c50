#!/usr/bin/env bash
# Keras 3.15.1: at strength 0, RandAugment and AugMix still invert images and reduce them to two levels; posterization gets weaker.
#
# Expected: factor is "the strength of the augmentation as a normalized value between 0 and 1", so 0 leaves images (nearly) as they
# are, and no operation gets weaker with a larger factor.
# Seen: the factor goes to operations to which it means other things. Posterization gets it as the number of bits to keep, of at
# least 1: below 0.375 it leaves 2 levels of 256, and at 1 as many as 128. Solarization gets it as the largest threshold, above
# which pixels are inverted: at 0 that is every pixel. So small factors, the usual start of a search, contain the hardest changes.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 keras==3.15.1 numpy
KERAS_BACKEND=torch env/bin/python -W ignore - <<'PY'
import keras
import numpy as np

CALLS = 200
image = np.tile(np.arange(256, dtype="float32").reshape(1, 16, 16, 1), (1, 1, 1, 3))  # each level once
hard, most = {}, {}
for factor in (0.0, 0.25, 1.0):
    layer = keras.layers.RandAugment(factor=factor, num_ops=1, seed=0)
    outputs = [np.asarray(layer(image, training=True)) for _ in range(CALLS)]
    inverted = sum(np.array_equal(output, 255 - image) for output in outputs)
    two = sum(len(np.unique(output)) == 2 for output in outputs)
    hard[factor] = inverted + two
    print(f"RandAugment(factor={factor}): of {CALLS} images {inverted} inverted, {two} of two levels")
    layer = keras.layers.AugMix(factor=factor, seed=0).random_posterization
    most[factor] = max(len(np.unique(np.asarray(layer(image, training=True)))) for _ in range(CALLS))
    print(f"AugMix(factor={factor}): posterization leaves {most[factor]} levels at the most")
assert hard[0.0] > CALLS / 10, "strength 0 leaves images as they are: this has changed"
assert hard[0.0] > hard[1.0] and most[0.25] == 2 < most[1.0], "a larger factor is stronger: this has changed"
PY
