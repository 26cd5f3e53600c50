#!/usr/bin/env bash
# Transformers 5.24.0: the Trainer divides the loss of GPT-2 by one label too many for each row, that of Llama does not.
#
# Expected: for a causal language model the Trainer sums the loss over the predicted tokens and divides by their number. The first
# label of a row is not predicted and so not counted, whatever the architecture.
# Seen: the Trainer leaves it out if the model's loss_type is "ForCausalLM". That is a part of the class name, which
# LlamaForCausalLM has and GPT2LMHeadModel has not. Its loss_type is None, for which the model falls back to the same loss, shift
# included; but the count includes each row's first label. In rows of 4 tokens the loss and all gradients are 3/4 of the mean.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 transformers==5.24.0 accelerate==1.15.0
env/bin/python -W ignore - <<'PY'
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, logging

logging.set_verbosity_error()
size = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 1}
models = [
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **size)),
    LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, **size)
    ),
]
ids = torch.arange(12).view(3, 4) % 11
shares = {}
for model in models:
    trainer = Trainer(model, TrainingArguments("out", use_cpu=True, report_to=[]))
    batch = {"input_ids": ids, "labels": ids}
    count = trainer._get_num_items_in_batch([batch], torch.device("cpu"))
    loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=count)
    mean = cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:])
    name = type(model).__name__
    shares[name] = (loss / mean).item()
    print(f"{name}: loss_type {model.loss_type}, {int(count)} labels counted, loss {shares[name]:.3f} of the mean")
assert abs(shares["LlamaForCausalLM"] - 1) < 1e-5
assert abs(shares["GPT2LMHeadModel"] - 3 / 4) < 1e-5, "the first label is left out now: this has changed"
PY
