#!/usr/bin/env bash
# Adversarial Robustness Toolbox 1.20.1: with the Mixup defence, fit mixes the data once for all epochs, with one weight for all.
#
# Expected: a classifier with Mixup among its preprocessing_defences mixes during training as in the paper that the class cites: each
# batch, or at least each epoch, has new partners and a new weight.
# Seen: fit gives the whole data set to its defences once, before the first epoch, and Mixup draws one weight for each call. So all
# epochs train on the same mixed copies, as many as there are examples, all with the same weight. The weight that a run has is the
# luck of one draw, and the plain examples are never seen. Calls of fit with one epoch each draw anew. Nothing is said.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 adversarial-robustness-toolbox==1.20.1 numpy==2.4.6 packaging
env/bin/python -W ignore - <<'PY'
import numpy as np
import torch
from art.defences.preprocessor import MixupPyTorch
from art.estimators.classification import PyTorchClassifier

COUNT, EPOCHS = 256, 10
x = np.eye(COUNT, dtype=np.float32)  # the entries of a mixed input are its weights
y = np.eye(2, dtype=np.float32)[np.arange(COUNT) % 2]
model = torch.nn.Sequential(torch.nn.Linear(COUNT, 2))
classifier = PyTorchClassifier(
    model, torch.nn.CrossEntropyLoss(), (COUNT,), 2, optimizer=torch.optim.SGD(model.parameters(), 0.1),
    preprocessing_defences=[MixupPyTorch(num_classes=2)],
)
seen = []
model[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))


def count(name):
    rows = torch.cat(seen)
    weights = {round(weight, 4) for weight in rows.amax(1).tolist() if weight < 1}  # 1: its own partner
    print(f"{name}: {len(rows)} inputs, {len(rows.unique(dim=0))} different, greater weights {sorted(weights)}")
    seen.clear()
    return len(rows), weights


np.random.seed(0)
torch.manual_seed(0)
classifier.fit(x, y, batch_size=32, nb_epochs=EPOCHS)
different = len(torch.cat(seen).unique(dim=0))
total, weights = count("one fit of ten epochs")
for _ in range(EPOCHS):
    classifier.fit(x, y, batch_size=32, nb_epochs=1)
_, apart = count("ten fits of one epoch")
assert total == EPOCHS * COUNT and len(apart) == EPOCHS
assert different == COUNT and len(weights) == 1, "epochs or batches draw anew: this has changed"
PY
