#!/usr/bin/env bash
# peft 0.21.2: after get_peft_model, a forward hook on a layer no longer sees, or changes, what the layer of that name gives.
#
# Expected: the LoRA layer takes the place of the layer it adapts, in the model and under its name, and so it takes over the forward
# hooks that stand there: a hook that puts sevens in the layer's place puts sevens there.
# Seen: the hook stays on the layer inside, base_layer. It sees the output without LoRA, and LoRA is added to what it returned: the
# model goes on with other values than the sevens, while the hook still runs, once a pass, without a warning.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 peft==0.21.2 transformers==5.24.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
calls = []


def sevens(module, args, output):
    calls.append(output)
    return torch.full_like(output, 7.0)


model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
model[0].register_forward_hook(sevens)
x = torch.randn(2, 4)
assert torch.equal(model[0](x), torch.full((2, 4), 7.0))
adapted = get_peft_model(model, LoraConfig(target_modules=["0"], init_lora_weights=False))
layer = adapted.base_model.model[0]
calls.clear()
output = layer(x)
print("hooks on", type(layer).__name__, len(layer._forward_hooks), "on base_layer", len(layer.base_layer._forward_hooks))
print("output", [round(value, 3) for value in output[0].tolist()], "after", len(calls), "call of the hook")
assert len(layer._forward_hooks) == 0 and len(layer.base_layer._forward_hooks) == 1
assert len(calls) == 1 and not torch.allclose(output, torch.full((2, 4), 7.0)), "sevens: this has changed"
PY
