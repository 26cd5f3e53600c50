#!/usr/bin/env bash
# torchaudio 2.11.0: a Conformer's outputs at valid frames depend on the frames behind the lengths that it is given.
#
# Expected: Conformer(input, lengths) takes the number of valid frames of each example, so what stands behind them changes none of
# the outputs before them, and an example has the same outputs whether it is padded or alone.
# Seen: attention is masked by the lengths, but the convolution of each layer reads across the end of an example, so the outputs of the
# last valid frames follow the padding. With a second layer, whose attention reads those frames, all outputs do. Zeros as padding do
# not help, because the layer makes other values of them before the convolution.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 torchaudio==2.11.0
env/bin/python -W ignore - <<'PY'
import torch
from torchaudio.models import Conformer

torch.manual_seed(0)
model = Conformer(input_dim=16, num_heads=2, ffn_dim=32, num_layers=1, depthwise_conv_kernel_size=5).eval()
frames = torch.randn(1, 20, 16)
lengths = torch.tensor([12])
with torch.no_grad():
    alone, _ = model(frames[:, :12], lengths)
    for name, padding in (("other values", torch.randn(1, 8, 16)), ("zeros", torch.zeros(1, 8, 16))):
        # A second example is as long as the batch, so that the mask has its usual width.
        batch = torch.cat([torch.cat([frames[:, :12], padding], 1), frames])
        padded = model(batch, torch.tensor([12, 20]))[0][:1, :12]
        apart = (padded - alone).abs().amax(2)[0]
        print(f"padded with {name}: largest difference at each valid frame")
        print("  ", " ".join(f"{value:.0e}" for value in apart.tolist()))
        assert apart[:10].max() < 1e-5, "frames beyond the reach of one convolution differ too"
        assert apart[10:].min() > 1e-3, "the padding no longer counts: this has changed"
PY
