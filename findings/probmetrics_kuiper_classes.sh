#!/usr/bin/env bash
# probmetrics 1.3.0: the Kuiper calibration metric of three classes is computed with the class numbers.
#
# Expected: for more than two classes the metric is of the predicted class, as smECE of the same module is, or it is refused; it is near
# 0 for calibrated predictions, and the same for the classes in another order.
# Seen: the probabilities of class 1 are set against the numbers of the classes, 0, 1, 2, as if these were outcomes. Calibrated
# predictions get 0.66 to 0.67, and another value for each numbering. Nothing is said.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 probmetrics==1.3.0 numpy==2.4.6 scikit-learn==1.9.1 numba==0.68.1 pandas==2.3.3
env/bin/python -W ignore - <<'PY'
import torch
from probmetrics.metrics import Metrics

COUNT = 5000
torch.manual_seed(0)
probabilities = torch.distributions.Dirichlet(torch.ones(3)).sample((COUNT,))
labels = torch.multinomial(probabilities, 1).squeeze(1)  # drawn with them: they are calibrated
kuiper = Metrics.from_names(["kuiper"])


def kuiper_of(positive, outcomes):
    """Return the range of the cumulated differences in the order of the predictions."""
    order = positive.argsort()
    cumulated = torch.cat([torch.zeros(1), ((outcomes - positive)[order]).cumsum(0) / COUNT])
    return (cumulated.max() - cumulated.min()).item()


confidence, predicted = probabilities.max(1)
exact = kuiper_of(confidence, (predicted == labels).float())
two = kuiper.compute_all_from_labels_probs((labels == 1).long(), torch.stack([1 - probabilities[:, 1], probabilities[:, 1]], 1))
print(f"of the predicted class {exact:.4f}; two classes, 1 against the others, by probmetrics {two['kuiper']:.4f},", end=" ")
print(f"by hand {kuiper_of(probabilities[:, 1], (labels == 1).float()):.4f}")
values = []
for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
    place = torch.tensor(order)
    values.append(kuiper.compute_all_from_labels_probs(place.argsort()[labels], probabilities[:, place])["kuiper"].item())
    print(f"three classes in the order {order}: {values[-1]:.4f}")
assert exact < 0.05 and two["kuiper"] < 0.05
assert min(values) > 0.5 and len(set(values)) == 3, "more than two classes are minded: this has changed"
PY
