#!/usr/bin/env bash
# pytorch-ood 0.4.0: the radius and the margin of MCHADLoss are not compared to distances, so outliers inside a sphere cost nothing.
#
# Expected: its documented terms: for examples max(0, d^2 - r^2) and for outliers the sum over the spheres of max(0, (r + m)^2 - d^2),
# "at least a distance m to the surface of each hypersphere", where d is the distance to a center.
# Seen: the loss takes squared distances and uses max(0, d^2 - r) and max(0, m^2 - d^4): the radius has no part in the second, and the
# distance is squared twice. With radius 2 and margin 1 an outlier within a sphere, at distance 1.5, has no loss, where 6.75 is
# documented, and an example inside its sphere, at the same distance, has one.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 pytorch-ood==0.4.0
env/bin/python -W ignore - <<'PY'
import torch
from pytorch_ood.loss import MCHADLoss

RADIUS, MARGIN = 2.0, 1.0
outlier = MCHADLoss(2, 2, RADIUS, MARGIN, weight_center=0, weight_nll=0, weight_oe=1)
center = MCHADLoss(2, 2, RADIUS, MARGIN, weight_center=1, weight_nll=0, weight_oe=0)
for criterion in (outlier, center):
    criterion.centers.params.data = torch.tensor([[0.0, 0.0], [100.0, 0.0]])

rows = {}
for distance in (0.5, 1.5, 2.5, 3.5):
    x = torch.tensor([[distance, 0.0]])
    # the classes of the mean that the center term documents; the outlier term is a sum
    near = 2 * center(center.distance(x), torch.tensor([0])).item()
    away = outlier(outlier.distance(x), torch.tensor([-1])).item()
    wanted = max(0, distance**2 - RADIUS**2), max(0, (RADIUS + MARGIN) ** 2 - distance**2)
    rows[distance] = near, away
    print(f"distance {distance}: example {near:.2f}, documented {wanted[0]:.2f};", end=" ")
    print(f"outlier {away:.2f}, documented {wanted[1]:.2f}")
assert rows[1.5][1] == 0, "an outlier inside the sphere has a loss: this has changed"
assert rows[1.5][0] > 0, "an example inside the sphere has none: this has changed"
PY
