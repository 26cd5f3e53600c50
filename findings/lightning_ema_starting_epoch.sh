#!/usr/bin/env bash
# Lightning 2.6.6: EMAWeightAveraging(update_starting_at_epoch=N) averages from the first step on.
#
# Expected: nothing is averaged before epoch N, and the first weights that enter are those that the model has then, as with
# update_starting_at_step.
# Seen: the epoch only adds one more update at the end of each epoch from N on. The updates after each step are bound by
# update_starting_at_step alone, and without it they begin with the first step, so the average holds the weights of the
# epochs that should have been left out. The same fit without the argument has the same average up to epoch N. The signature
# is all the documentation that there is, and nothing is said.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 lightning==2.6.6
env/bin/python -W ignore - <<'PY'
import logging

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
STEPS, EPOCHS, START = 5, 6, 4


class Walk(lightning.LightningModule):  # its weight is the number of steps taken
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, index):
        return -self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(name, **options):
    callback = EMAWeightAveraging(decay=0.9, **options)
    rows = []

    class Record(lightning.Callback):
        def on_train_epoch_start(self, trainer, module):
            average = callback._average_model
            rows.append((int(average.n_averaged), round(average.module.weight.item(), 2)))

    trainer = lightning.Trainer(
        max_epochs=EPOCHS, callbacks=[callback, Record()], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(Walk(), torch.utils.data.DataLoader(torch.zeros(STEPS, 1)))
    print(f"{name}: (updates, averaged weight) as each epoch starts: {rows}")
    return rows


plain = fit("without a start")
by_step = fit(f"update_starting_at_step={START * STEPS}", update_starting_at_step=START * STEPS)
by_epoch = fit(f"update_starting_at_epoch={START}", update_starting_at_epoch=START)
assert [updates for updates, _ in by_step[: START + 1]] == [0] * (START + 1)
assert by_epoch[: START + 1] == plain[: START + 1], "the epoch delays the average: this has changed"
assert by_epoch[-1][0] == plain[-1][0] + 1
PY
