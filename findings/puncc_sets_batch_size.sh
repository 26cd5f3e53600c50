#!/usr/bin/env bash
# puncc 0.9.3: APS and RAPS predict sets of at most as many classes as there are examples in the batch.
#
# Expected: the prediction set of an example does not depend on how many examples are predicted with it, and holds the true class
# with a probability of 90 % for alpha = 0.1.
# Seen: the size of a set is limited by the number of examples where the number of classes is meant. Of 20 classes, batches of
# 5 examples have sets of at most 5 classes, and cover 70 %; batches of 2 cover 39 %. Nothing is said. LAC, in the same library, is not
# limited: its sets are the same in batches of every size.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile puncc==0.9.3 numpy==1.26.4 scikit-learn==1.7.2 pandas==2.3.3
env/bin/python -W ignore - <<'PY'
import numpy as np
from deel.puncc.api.prediction import BasePredictor
from deel.puncc.classification import APS, LAC, RAPS

CLASSES, ALPHA = 20, 0.1
generator = np.random.default_rng(0)


def draw(count):
    """Return probabilities, and labels that are drawn with them."""
    probabilities = generator.dirichlet(np.full(CLASSES, 0.5), count)
    return probabilities, (probabilities.cumsum(1) < generator.random((count, 1))).sum(1).clip(0, CLASSES - 1)


class Known:
    """A model that predicts the true probabilities, which are its inputs."""

    def predict(self, inputs):
        return inputs


calibration, inputs, labels = draw(2000), *draw(1000)
covered = {}
for name, method in (("LAC", LAC), ("APS", APS), ("RAPS", RAPS)):
    options = {} if name == "LAC" else {"rand": False}
    conformal = method(BasePredictor(Known(), is_trained=True), train=False, **options)
    conformal.fit(X_calib=calibration[0], y_calib=calibration[1])
    for batch in (1000, 5, 2):
        parts = [conformal.predict(inputs[i : i + batch], alpha=ALPHA)[1] for i in range(0, len(inputs), batch)]
        sets = [list(one) for part in parts for one in part]
        covered[name, batch] = np.mean([label in one for label, one in zip(labels, sets)])
        largest = max(len(one) for one in sets)
        print(f"{name} in batches of {batch}: coverage {covered[name, batch]:.3f}, largest set {largest}")
        assert batch == 1000 or name == "LAC" or largest <= batch, "sets are larger than the batch: this has changed"
assert covered["LAC", 2] == covered["LAC", 1000] > 0.88
for name in ("APS", "RAPS"):
    assert covered[name, 1000] > 0.88 and covered[name, 5] < 0.8 and covered[name, 2] < 0.5, "this has changed"
PY
