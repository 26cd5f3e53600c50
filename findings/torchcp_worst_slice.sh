#!/usr/bin/env bash
# TorchCP 1.2.1: the worst-slice coverage WSC looks for the slice with the smallest labels, not for that with the worst coverage.
#
# Expected: the metric of Romano et al. 2020: the slice of the features with the lowest coverage is sought on one part of the
# data, and its coverage is taken on the other. It does not depend on the numbers that the classes have.
# Seen: labels and coverage are exchanged when the search is called, so that it minimizes the mean class number. Sets that miss
# all of one fifth of the feature space have a worst-slice coverage of up to 1.0, and another for each numbering of the classes.
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
from torchcp.classification.utils.metrics import WSC

generator = torch.Generator().manual_seed(0)
features = torch.rand(2000, 2, generator=generator)
labels = torch.randint(0, 4, (2000,), generator=generator)
covered = features[:, 0] > 0.2
sets = torch.zeros(2000, 4, dtype=torch.bool)
sets[torch.arange(2000), labels] = covered  # the true class alone, but nothing for a first feature below 0.2

low = covered[(features[:, 0] > 0.02) & (features[:, 0] < 0.18)].float().mean().item()
print(f"coverage of all {covered.float().mean().item():.3f}, of a slice with 16 % of the data {low:.3f}")
worst = {}
for numbers in ([0, 1, 2, 3], [1, 2, 3, 0], [3, 2, 1, 0]):
    renamed = torch.tensor(numbers)
    worst[tuple(numbers)] = WSC(features, sets[:, renamed.argsort()], renamed[labels], delta=0.1, M=200)
    print(f"WSC with the classes numbered {numbers}: {worst[tuple(numbers)]:.3f}")
assert low == 0
assert min(worst.values()) > 0.5 and len(set(worst.values())) > 1, "WSC finds the slice: this has changed"
PY
