#!/usr/bin/env bash
# TorchCP 1.2.1: SAPS without randomization gives empty prediction sets, for it calibrates with another score than it predicts with.
#
# Expected: with randomized=False sets are larger, and cover a share of at least 1 - alpha, as with APS and RAPS.
# Seen: the score of the most probable class is its probability where sets are built (rank 1, u = 0), but u times its probability, which
# is 0, where the true labels are scored for calibration. If the model is right for more than 1 - alpha, the threshold is 0, and
# no set holds any class. With random u the two have the same distribution, and coverage is as it should be.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 \
    torch-geometric==2.8.1 scikit-learn==1.9.1 pandas==3.1.1
env/bin/pip install --quiet --no-compile --no-deps torchcp==1.2.1
echo "soft_rank = soft_sort = None" > torchsort.py  # only published as source; one loss imports it, which is not used here
env/bin/python -W ignore - <<'PY'
import torch
from torchcp.classification.predictor import SplitPredictor
from torchcp.classification.score import APS, RAPS, SAPS

torch.manual_seed(0)
labels = torch.randint(0, 5, (4000,))
logits = torch.randn(4000, 5)
logits[torch.arange(4000), labels] += 4  # right for about 99 %
coverage = {}
for kind in (APS, RAPS, SAPS):
    for randomized in (True, False):
        predictor = SplitPredictor(kind(randomized=randomized), alpha=0.1)
        predictor.calculate_threshold(logits[:2000], labels[:2000], 0.1)
        sets = predictor.predict_with_logits(logits[2000:])
        covered = sets[torch.arange(2000), labels[2000:]].float().mean().item()
        coverage[kind.__name__, randomized] = covered
        print(f"{kind.__name__}(randomized={randomized}): threshold {predictor.q_hat.item():.3f},", end=" ")
        print(f"mean size {sets.sum(1).float().mean().item():.2f}, coverage {covered:.3f} for 0.9")
one = SAPS(randomized=False)
top = torch.tensor([[2.0, 0.0, 0.0]])
print("score of the first class: for sets", one(top)[0, 0].item(), "for calibration", one(top, torch.tensor([0])).item())
assert coverage.pop(("SAPS", False)) == 0, "SAPS covers without randomization: this has changed"
assert min(coverage.values()) > 0.87
PY
