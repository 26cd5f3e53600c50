#!/usr/bin/env bash
# fairscale 0.4.13: a deep copy of a module in checkpoint_wrapper computes with the weights of the original.
#
# Expected: copy.deepcopy of a wrapped module (an EMA, say) is independent of it: with its weights set to zero, it gives zeros.
# Seen: the forward method that the wrapper puts on the instance holds a weak reference to the original, which a copy keeps. The
# copy gives the original's outputs, its gradients go to the original's weights, and once the original is gone it fails.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 fairscale==0.4.13 numpy
env/bin/python -W ignore - <<'PY'
import copy

import torch
from fairscale.nn import checkpoint_wrapper
from torch import nn

torch.manual_seed(0)
original = checkpoint_wrapper(nn.Linear(3, 3))
average = copy.deepcopy(original)
with torch.no_grad():
    for parameter in average.parameters():
        parameter.zero_()
x = torch.randn(2, 3, requires_grad=True)
output = average(x)
output.sum().backward()
print("the copy, with weights of zero, gives at most", float(output.abs().max()))
print("gradients of the original", [p.grad is not None for p in original.parameters()])
print("gradients of the copy    ", [p.grad is not None for p in average.parameters()])
assert torch.equal(output, original(x)) and output.abs().max() > 0, "a copy is its own now"
assert all(p.grad is not None for p in original.parameters())
assert all(p.grad is None for p in average.parameters())
del original, output
try:
    average(x)
except AttributeError as error:
    print("without the original:", error)
else:
    raise AssertionError("it runs without the original now: this has changed")
PY
