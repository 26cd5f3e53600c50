#!/usr/bin/env bash
# pytorch-ood 0.4.0: ViM.fit_features fits to the outliers that it documents to ignore.
#
# Expected: "Ignores OOD samples": as in GMM, features whose label is below zero have no part in the fit.
# Seen: ViM never reads its labels. Outliers among the features turn the principal subspace to themselves and change alpha, so the
# detector takes the very outliers that it was shown for normal. With a loader, fit sorts them out, so the two ways to
# fit differ. Nothing is said.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 pytorch-ood==0.4.0
env/bin/python -W ignore - <<'PY'
import torch
from pytorch_ood.detector import GMM, ViM
from pytorch_ood.metrics import AUROC

generator = torch.Generator().manual_seed(0)


def draw(count, axes):  # features that vary along some of 16 axes, and a little along the others
    scale = torch.full((16,), 0.1)
    scale[axes] = 3.0
    return scale * torch.randn(count, 16, generator=generator)


weight, bias = torch.randn(4, 16, generator=generator) / 4, torch.zeros(4)
normal, outliers = draw(400, slice(0, 4)), draw(400, slice(4, 8))
features = torch.cat([normal, outliers])
labels = torch.cat([torch.arange(400) % 4, torch.full((400,), -1)])

quality = {}
for kind in (lambda: GMM(None), lambda: ViM(None, 4, weight, bias)):
    for name, count in (("without outliers", 400), ("with outliers", 800)):
        detector = kind().fit_features(features[:count], labels[:count])
        name = f"{type(detector).__name__} fitted {name}"
        quality[name] = AUROC().update(detector.predict_features(features), labels).compute()["AUROC"]
        print(f"{name}: AUROC {quality[name]:.3f}")
assert quality["GMM fitted with outliers"] == quality["GMM fitted without outliers"]
assert quality["ViM fitted without outliers"] > 0.95
assert quality["ViM fitted with outliers"] < 0.8, "outliers are ignored: this has changed"
PY
