#!/usr/bin/env bash
# Lightning 2.6.6: StochasticWeightAveraging moves the averaged weights once more, by an old gradient.
#
# Expected: for a model with BatchNorm the callback adds an epoch that only takes batch statistics; its comment says "no need
# to perform either backward or optimizer.step". So the weights after the fit are the average that the callback holds.
# Seen: at the last batch of that epoch the optimizer steps, with the gradient that the last step of the training left, so
# that the weights differ from the average, and the statistics are those of other weights than the model ends with.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 lightning==2.6.6 numpy
env/bin/python - <<'PY'
import logging
import warnings

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Net(LightningModule):
    def __init__(self, norm):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), norm, nn.Linear(8, 2))

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def distance(norm):
    """Return how far the weights after the fit are from the average."""
    torch.manual_seed(1)
    data = DataLoader(TensorDataset(torch.randn(32, 4), torch.randint(2, (32,))), batch_size=8)
    module, averaging = Net(norm), StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=2)
    quiet = dict.fromkeys(
        ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
    )
    Trainer(max_epochs=4, accelerator="cpu", callbacks=[averaging], **quiet).fit(module, data)
    average = averaging.state_dict()["average_model_state"]
    return max(float((p.detach() - average[name]).abs().max()) for name, p in module.named_parameters())


without, with_norm = distance(nn.LayerNorm(8)), distance(nn.BatchNorm1d(8))
print(f"largest distance from the average: {without:.5f} with LayerNorm, {with_norm:.5f} with BatchNorm")
assert without == 0.0, "the average itself, as expected"
assert with_norm > 1e-4, "the weights are the average now: this has changed"
PY
