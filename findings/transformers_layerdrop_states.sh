#!/usr/bin/env bash
# Transformers 5.24.0: with LayerDrop, hidden_states has a state less for every layer that was dropped.
#
# Expected: output_hidden_states=True returns the embeddings and one state for each layer, as Wav2Vec2's documentation says; a
# dropped layer's state is that of the layer before. use_weighted_layer_sum=True, which has a weight for each, trains.
# Seen: the states are collected by hooks on the layers, which do not run for a dropped layer. So their number varies from step to
# step, a state's index no longer names its layer, and the weighted sum raises in most steps at the default rate of 0.1 per layer.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 transformers==5.24.0 numpy
env/bin/python -W ignore - <<'PY'
import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

small = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 12}
convolutions = {"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3), "num_feat_extract_layers": 2}
positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0}
config = Wav2Vec2Config(use_weighted_layer_sum=True, **small, **convolutions, **positions)
torch.manual_seed(0)
model = Wav2Vec2ForSequenceClassification(config).train()
sound = torch.randn(2, 2000)
counts = [len(model.wav2vec2(sound, output_hidden_states=True).hidden_states) for _ in range(20)]
print("LayerDrop at", config.layerdrop, "of 12 layers, states returned:", counts)
raised = []
for _ in range(20):
    try:
        model(sound)
    except RuntimeError as error:
        raised.append(str(error))
print(len(raised), "of 20 training steps with the weighted sum raise, for example:", raised[0])
model.eval()
print("in eval mode, states returned:", len(model.wav2vec2(sound, output_hidden_states=True).hidden_states))
assert min(counts) < 13 and max(counts) <= 13, "there is a state for every layer now"
assert len(raised) > 5 and "must match the size" in raised[0], "the weighted sum works now"
PY
