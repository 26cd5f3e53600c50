#!/usr/bin/env bash
# TorchUncertainty 0.13.0: the figure of AUGRC.plot shows another AUGRC than compute, and than the area under its own curve.
#
# Expected: the number in the figure is the metric, as in the figure of AURC.
# Seen: plot reverses the error rates for its axes and multiplies them by coverages that it does not reverse, so each error rate has
# the weight of another coverage. The curve is right, the number is not: it is about half of the metric here, and lower is better.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 \
    "torch-uncertainty[cpu]==0.13.0" lightning==2.6.6 torchmetrics==1.9.0
env/bin/python -W ignore - <<'PY'
import numpy as np
import torch
from torch_uncertainty.metrics.classification import AUGRC, AURC

generator = torch.Generator().manual_seed(0)
confidence = 0.5 + torch.rand(5000, generator=generator) / 2
wrong = torch.rand(5000, generator=generator) > confidence  # calibrated: sure predictions are wrong less often
probs = torch.stack([confidence, 1 - confidence], 1)

apart = {}
for kind in (AURC, AUGRC):
    metric = kind()
    metric.update(probs, wrong.long())
    _, axes = metric.plot()
    shown = float(axes.texts[0].get_text().split("=")[1].rstrip("%")) / 100
    coverage, risk = (np.asarray(values) / 100 for values in axes.lines[0].get_data())
    order = np.argsort(coverage, kind="stable")
    area = np.trapezoid(risk[order], coverage[order])
    value = metric.compute().item()
    apart[kind.__name__] = shown / value - 1
    print(f"{kind.__name__}: compute {value:.4f}, area under the drawn curve {area:.4f}, in the figure {shown:.4f}")
    assert abs(area / value - 1) < 0.05  # the curve leaves out both ends
assert abs(apart["AURC"]) < 0.01
assert abs(apart["AUGRC"]) > 0.2, "the figure shows the metric: this has changed"
PY
