#!/usr/bin/env bash
# PyTorch-Ignite 0.5.5: EMAHandler with handle_buffers="copy", its default, does not copy the buffers but shares them.
#
# Expected: '"copy" means copying the buffers of the online model' at each update: the averaged model has its own, as of that update.
# Seen: its buffers are those of the trained model from the first update on. Between updates (interval=100) its batch norm has
# averaged weights with the statistics of the newest step; and torch.optim.swa_utils.update_bn, which is how statistics are fitted to
# averaged weights, overwrites the statistics of the trained model: its predictions in eval mode are others afterwards.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 pytorch-ignite==0.5.5 numpy
env/bin/python -W ignore - <<'PY'
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn
from torch.optim.swa_utils import update_bn

torch.manual_seed(0)
model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def step(engine, batch):
    model.train()
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()


handler = EMAHandler(model, momentum=0.01)
trainer = Engine(step)
handler.attach(trainer, event=Events.ITERATION_COMPLETED(every=3))
own, averaged = model[0], handler.ema_model[0]
kept = {}
trainer.add_event_handler(Events.ITERATION_COMPLETED(every=3), lambda: kept.update(mean=averaged.running_mean.clone()))
trainer.run([torch.randn(8, 2) + 3 for _ in range(5)])
print("running mean of the averaged model at its update:", [round(value, 4) for value in kept["mean"].tolist()])
print("two steps later, without an update of it:        ", [round(value, 4) for value in averaged.running_mean.tolist()])
inputs = torch.randn(4, 2)
before = model.eval()(inputs)
update_bn([torch.randn(64, 2) - 5], handler.ema_model)
change = (model.eval()(inputs) - before).abs().max().item()
print(f"after update_bn of the averaged model, predictions of the trained model change by up to {change:.4f}")
assert own.running_mean.data_ptr() == averaged.running_mean.data_ptr(), "the buffers are copies: this has changed"
assert own.weight.data_ptr() != averaged.weight.data_ptr()
assert not torch.equal(kept["mean"], averaged.running_mean) and change > 0.1
PY
