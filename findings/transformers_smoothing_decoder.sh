#!/usr/bin/env bash
# Transformers 5.24.0: with label smoothing, the Trainer gives the decoder of BART the source in place of the target.
#
# Expected: label_smoothing_factor changes how the loss weighs the classes, and nothing else: the decoder is given the target before
# each position, as without it.
# Seen: to compute the loss itself, the Trainer takes the labels out of the batch. A model that makes the inputs of its decoder of the
# labels no longer has them. T5 then raises. BART makes them of the source, as for denoising, and where source and target are
# padded to one length it trains so, without a word. Only DataCollatorForSeq2Seq(tokenizer, model=model), which adds
# decoder_input_ids, avoids it; with the default collator nothing does.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 transformers==5.24.0 accelerate==1.15.0
env/bin/python -W ignore - <<'PY'
import torch
from transformers import BartConfig, BartForConditionalGeneration, Seq2SeqTrainer, Seq2SeqTrainingArguments, logging

logging.set_verbosity_error()
torch.manual_seed(0)
sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
heads = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
model = BartForConditionalGeneration(BartConfig(vocab_size=30, max_position_embeddings=16, **sizes, **heads))
source, target = torch.randint(3, 30, (4, 6)), torch.randint(3, 30, (4, 6))
given = []
model.model.decoder.register_forward_pre_hook(
    lambda module, args, options: given.append(options["input_ids"]), with_kwargs=True
)
for smoothing in (0.0, 0.1):
    settings = {"use_cpu": True, "report_to": [], "label_smoothing_factor": smoothing}
    trainer = Seq2SeqTrainer(model, Seq2SeqTrainingArguments("out", **settings))
    trainer.compute_loss(model, {"input_ids": source, "labels": target})
    before = given[-1][:, 1:]
    print(f"smoothing {smoothing}: the decoder is given {before[0].tolist()}")
print(f"source {source[0].tolist()}, target {target[0].tolist()}")
assert torch.equal(given[0][:, 1:], target[:, :-1])
assert torch.equal(given[1][:, 1:], source[:, :-1]), "the decoder is given something else now: this has changed"
PY
