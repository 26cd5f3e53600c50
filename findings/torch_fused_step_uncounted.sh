#!/usr/bin/env bash
# PyTorch 2.13.0: a fused optimizer on the CPU changes parameters without counting it, so autograd misses the write.
#
# Expected: backward through a graph that was made before optimizer.step() raises "modified by an inplace operation", whichever
# form of the optimizer made the step, for its gradient would be that of other weights.
# Seen: it raises after the loop and the foreach form. After fused=True, of SGD, Adam and AdamW alike, the version counter
# stands still, and backward gives the gradient of the new weights in silence.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 numpy
env/bin/python - <<'PY'
import torch
from torch.optim import SGD, Adam, AdamW

print("torch", torch.__version__)


def after_a_step(kind, **form):
    """Return the version after one step, and what backward through an older graph gives."""
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = kind([weight], lr=0.5, **form)
    older = (weight * weight).sum()
    weight.grad = torch.ones(2)
    optimizer.step()
    optimizer.zero_grad()
    try:
        older.backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
        return weight._version, "raises"
    assert torch.equal(weight.grad, 2 * weight)  # of the new weights: it should be (2, 4)
    return weight._version, "silent"


for kind in (SGD, Adam, AdamW):
    for form in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        version, told = after_a_step(kind, **form)
        print(f"{kind.__name__:<6} {form!s:<19} version {version}, backward of an older graph {told}")
        assert (version == 0, told) == ((True, "silent") if "fused" in form else (False, "raises"))
PY
