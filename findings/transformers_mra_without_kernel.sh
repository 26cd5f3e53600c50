#!/usr/bin/env bash
# Transformers 5.24.0: without its CUDA kernel, the attention of MRA is zero, so that no token sees another, and nothing says so.
#
# Expected: on a machine without a GPU, an encoder such as MRA computes its attention in PyTorch, or raises.
# Seen: mra2_attention returns zeros if the kernel was not loaded, with requires_grad, so that training goes on. The state of a token
# depends on that token and its position alone: other tokens change nothing, while in BERT they do.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 transformers==5.24.0
CUDA_VISIBLE_DEVICES="" env/bin/python - <<'PY'
import warnings

import torch
from transformers import BertConfig, BertModel, MraConfig, MraModel

warnings.simplefilter("error")
size = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ids = torch.randint(3, 50, (1, 32), generator=torch.Generator().manual_seed(0))
others = ids.clone()
others[:, 1:] = (ids[:, 1:] + 7) % 47 + 3
moved = {}
for kind, config in ((BertModel, BertConfig), (MraModel, MraConfig)):
    torch.manual_seed(0)
    model = kind(config(**size)).eval()
    with torch.no_grad():
        first, second = (model(each).last_hidden_state[:, 0] for each in (ids, others))
    moved[kind.__name__] = (first - second).abs().max().item()
    print(f"{kind.__name__}: other tokens change the state of the first by {moved[kind.__name__]:.1e}")
assert moved["BertModel"] > 1e-3
assert moved["MraModel"] == 0, "the other tokens are seen now: this has changed"
PY
