#!/usr/bin/env bash
# PyTorch 2.14.1: of modules whose forward is a compiled region, some use the parameters of one that has a forward of its own.
#
# Expected: blocks of one class, whose forward is marked with `nested_compile_region`, use their own parameters in compiled code, also
# if `forward` of one was set on the instance, to the method that it has anyway.
# Seen: of three blocks in a Sequential, the second makes the third wrong, without a word. Which one does differs between models.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 numpy
env/bin/python - <<'PY'
import copy
import types

import torch
from torch import nn

print("torch", torch.__version__)


class Block(nn.Linear):
    @torch.compiler.nested_compile_region
    def forward(self, x):
        return super().forward(x).tanh()


def difference(own):
    """Return how far compiled outputs are from eager ones if a block has a forward of its own; None for no block."""
    torch.manual_seed(0)
    torch.compiler.reset()
    model, x = nn.Sequential(*(Block(4, 4) for _ in range(3))), torch.randn(2, 4)
    expected = copy.deepcopy(model)(x)
    if own is not None:
        model[own].forward = types.MethodType(Block.forward, model[own])
    return (torch.compile(model, backend="eager", fullgraph=True)(x) - expected).abs().max().item()


for own in (None, 0, 1, 2):
    print(f"forward of its own: {own}, difference {difference(own):.3g}")
assert difference(None) == 0
assert difference(1) > 0.01
PY
