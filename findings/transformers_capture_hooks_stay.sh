#!/usr/bin/env bash
# Transformers 5.24.0: asked once for hidden states, a model has hooks on every layer for ever, and collects before other hooks.
#
# Expected: output_hidden_states=True is an option of one call; afterwards the model is as before. hidden_states[k] is what the
# next layer was given, so that a forward hook that replaces a layer's output shows in it.
# Seen: the call leaves two forward hooks a layer. A hook that the user registers after such a call stands behind them: the model
# goes on with its output, but hidden_states holds the one before. Registered before the first such call, it shows.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.24.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from transformers import BertConfig, BertModel

size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ids = torch.tensor([[1, 2, 3]])


def count(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def sevens(module, args, output):
    return torch.full_like(output, 7.0)


def seen(asked_before):
    """Return whether hidden_states shows what a hook put in the first layer's place."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(vocab_size=9, **size)).eval()
    if asked_before:
        model(ids, output_hidden_states=True)
    model.encoder.layer[0].register_forward_hook(sevens)
    given = []
    model.encoder.layer[1].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    states = model(ids, output_hidden_states=True).hidden_states
    assert torch.equal(given[-1], torch.full_like(given[-1], 7.0))  # what the next layer was given
    return torch.equal(states[1], given[-1])


model = BertModel(BertConfig(vocab_size=9, **size)).eval()
counts = [count(model)]
for options in ({}, {"output_hidden_states": True}, {}):
    model(ids, **options)
    counts.append(count(model))
print("hooks: at first, after a call, after one for hidden states, after one more:", counts)
print("hidden_states shows the hook's output: registered before", seen(False), "registered after", seen(True))
assert counts == [0, 0, 4, 4], "the hooks are taken off now: this has changed"
assert seen(False) and not seen(True), "the order does not matter now: this has changed"
PY
