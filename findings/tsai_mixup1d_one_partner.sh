#!/usr/bin/env bash
# tsai 1.0.1: MixUp1d mixes every series of a batch with one and the same other series.
#
# Expected: series i is mixed with the series whose label it gets, as fastai's MixUp does and as in the paper.
# Seen: the labels are those of a permutation of the batch, and the series are all mixed with the first series of that permutation.
# The callback pairs the shuffled batch, a tensor, with a tuple of inputs; zip then takes the first row of the one and all of the
# other. Nothing is said: shapes and losses look as usual, while most of the second labels belong to nothing that is in the input.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 fastai==2.8.12 tsai==1.0.1 scikit-learn==1.7.2
env/bin/python -W ignore - <<'PY'
import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from tsai.data.mixed_augmentation import MixUp1d

COUNT = 16
series = [(torch.full((1, 8), float(number)), torch.tensor(number)) for number in range(COUNT)]  # each shows its own label
mixup = MixUp1d()
seen = {}


class Look(Callback):
    """Keep what is in the inputs, and which labels go with them."""

    order = 90

    def before_batch(self):
        if self.training:
            own = self.yb[0].float()
            shown = self.xb[0][:, 0, 0]
            seen["partner"] = ((shown - mixup.lam * own) / (1 - mixup.lam))[mixup.lam < 0.99].round().long().tolist()
            seen["label"] = mixup.yb1[0][mixup.lam < 0.99].tolist()
            seen["first"] = mixup.yb1[0][0].item()


torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, COUNT))
loaders = DataLoaders.from_dsets(series, series, bs=COUNT, device=torch.device("cpu"))
learner = Learner(loaders, model, loss_func=CrossEntropyLossFlat(), cbs=[mixup, Look()])
with learner.no_logging():
    learner.fit(1, lr=0.0)
print("second series in the inputs:", seen["partner"])
print("second labels:              ", seen["label"])
assert seen["partner"] != seen["label"], "each series is mixed with that of its second label: this has changed"
assert set(seen["partner"]) == {seen["first"]} and len(set(seen["label"])) > COUNT / 2
PY
