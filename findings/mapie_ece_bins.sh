#!/usr/bin/env bash
# MAPIE 1.6.0: the bins of its expected calibration error are one too few, or depend on the order of the examples.
#
# Expected: num_bins is "the number of bins", and a calibration error is the same for the same predictions in another order.
# Seen: "uniform" and "quantile" place num_bins edges, so that there are num_bins - 1 bins: of two bins, one is left, in which errors
# of both signs cancel out. "array split" cuts the scores into equal parts as they come, without sorting them, and takes the largest
# of each part for an edge: sorted, the value is right; in any other order nearly all scores share a bin, and it can be near zero.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile mapie==1.6.0 numpy==2.4.6 scikit-learn==1.9.1
env/bin/python - <<'PY'
import numpy as np
from mapie.metrics.calibration import expected_calibration_error

generator = np.random.default_rng(0)
scores = generator.uniform(0, 1, 5000)
outcomes = (generator.random(5000) < np.where(scores < 0.5, scores + 0.2, scores - 0.2)).astype(int)  # 0.2 off everywhere
order = np.argsort(scores)


def defined(parts):
    """Return the sum over the bins of |outcomes - scores|, as a share of the examples."""
    return sum(abs((outcomes[part] - scores[part]).sum()) for part in parts) / len(scores)


def error(strategy, count, rows=slice(None)):
    return expected_calibration_error(outcomes[rows], scores[rows], num_bins=count, split_strategy=strategy)


for count in (2, 5, 10):
    edges = np.linspace(0, 1, count + 1)[1:-1]
    wide = defined(np.flatnonzero(np.digitize(scores, edges) == k) for k in range(count))
    full = defined(np.array_split(order, count))
    print(f"{count} bins: of equal width {wide:.4f}, MAPIE's uniform {error('uniform', count):.4f};", end=" ")
    print(f"of equal size {full:.4f}, MAPIE's quantile {error('quantile', count):.4f},", end=" ")
    print(f"array split {error('array split', count):.4f}, sorted before {error('array split', count, order):.4f}")
    assert abs(error("array split", count, order) - full) < 1e-9
    assert error("array split", count) < 0.05 < full, "the order does not matter: this has changed"
assert error("uniform", 2) < 0.01 and error("quantile", 2) < 0.01, "two bins are two: this has changed"
PY
