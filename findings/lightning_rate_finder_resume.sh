#!/usr/bin/env bash
# Lightning 2.6.6: with a LearningRateFinder, a fit that resumes from a checkpoint starts its epochs anew.
#
# Expected: fit(ckpt_path=...) goes on where the checkpoint was (epoch 1, step 4, the optimizer's momentum), after the finder
# has tried out its rates: 8 of 12 steps are left.
# Seen: the weights are the checkpoint's, but epochs, steps and momentum are lost: 12 steps, from epoch 0. The finder restores
# a checkpoint of its own before the Trainer gets to the rest of the one to resume from, which then counts as loaded.
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
from lightning.pytorch.callbacks import LearningRateFinder
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Net(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.lr, self.steps = nn.Linear(4, 2), 0.1, []

    def training_step(self, batch, _):
        momentum = len(self.optimizers().optimizer.state)
        self.steps.append((self.current_epoch, self.global_step, momentum > 0))
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


data = DataLoader(TensorDataset(torch.randn(32, 4), torch.randint(2, (32,))), batch_size=8)
quiet = dict.fromkeys(
    ["logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"], False
)


def trainer(epochs, *callbacks):
    return Trainer(max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), **quiet)


def resumed(*callbacks):
    """Return epoch, step and whether there is a momentum, at every step of the resumed fit itself."""
    module = Net()
    trainer(3, *callbacks).fit(module, data, ckpt_path="epoch.ckpt")
    return module.steps


first = trainer(1)
first.fit(Net(), data)
first.save_checkpoint("epoch.ckpt")
plain = resumed()
tries = 4
found = resumed(LearningRateFinder(num_training_steps=tries, update_attr=False))[tries:]
print(f"without a finder {len(plain)} steps from {plain[0]}, with one {len(found)} from {found[0]}")
assert plain[0] == (1, 4, True) and len(plain) == 8
assert found[0] == (0, 0, False) and len(found) == 12, "the place is kept now: this has changed"
PY
