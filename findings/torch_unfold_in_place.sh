#!/usr/bin/env bash
# PyTorch 2.14.1: writing in place into overlapping windows is not refused, and changes a number as often as it is in a window.
#
# Expected: an in-place operator on a view whose elements share memory raises, as it does on an expanded tensor.
# Seen: it raises only where a stride is 0. On windows from `Tensor.unfold`, the check gives up ("too hard to tell"), and the operator
# runs: of eight ones in windows of three, doubled in place, the middle ones become 8, and what each window shows afterwards is not
# twice what it showed. Out of place, every element is 2.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 numpy
env/bin/python - <<'PY'
import torch

print("torch", torch.__version__)

repeated = torch.ones(1, 3).expand(6, 3)
try:
    repeated.mul_(2)
except RuntimeError as error:
    print("expanded:", str(error).splitlines()[0])
    assert "single memory location" in str(error)
else:
    raise AssertionError("an expanded tensor was written into")

for name, double in (("mul_", lambda x: x.mul_(2)), ("add_", lambda x: x.add_(x.clone()))):
    numbers = torch.ones(8)
    windows = numbers.unfold(0, size=3, step=1)
    assert windows.shape == (6, 3) and windows.stride() == (1, 1)
    wanted = windows * 2
    double(windows)
    print(f"{name} on windows: {numbers.tolist()}, equal to the result out of place: {torch.equal(windows, wanted)}")
    assert not torch.equal(windows, wanted)

numbers = torch.ones(8)
numbers.unfold(0, 3, 1).mul_(2)
assert numbers.tolist() == [2, 4, 8, 8, 8, 8, 4, 2]
PY
