#!/usr/bin/env bash
# PyTorch 2.14.1: an autograd.Function with setup_context inspects the signature of its forward at every call.
#
# Expected: the two documented forms of a Function cost the same, as they do the same.
# Seen: in the form with a separate setup_context, `apply` builds an inspect.Signature and binds the arguments to it each time,
# although no transform of torch.func runs. A call with sixteen arguments makes 216 calls of Python functions, for one in the
# other form: more time than a small operator takes. A `__signature__` on forward saves part of it.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 numpy
env/bin/python - <<'PY'
import inspect
import sys

import torch

FORMS = """
class Together(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, {names}):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, *[None] * {count}


class Apart(torch.autograd.Function):
    @staticmethod
    def forward(x, {names}):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return grad, *[None] * {count}
"""


def forms(count):
    """Return a Function in both forms, with some arguments beside the tensor."""
    made = {"torch": torch}
    exec(FORMS.format(names=", ".join(f"a{k}" for k in range(count)), count=count), made)
    return made["Together"], made["Apart"]


def python_calls(function, count):
    """Return how many Python functions one forward call of a Function enters."""
    x, entered = torch.ones(3, requires_grad=True), 0

    def see(frame, event, argument):
        nonlocal entered
        entered += event == "call"

    function.apply(x, *range(count))  # what happens once is not counted
    sys.setprofile(see)
    function.apply(x, *range(count))
    sys.setprofile(None)
    return entered


print("torch", torch.__version__)
for count in (1, 3, 7, 15):
    together, apart = forms(count)
    without = python_calls(apart, count)
    apart.forward.__signature__ = inspect.signature(apart.forward)
    found = python_calls(together, count), without, python_calls(apart, count)
    print(f"{count + 1:>2} arguments: in forward {found[0]}, in setup_context {found[1]}, with __signature__ {found[2]}")
    assert found[0] == 1
    assert found[1] >= 30 + 12 * count
    assert found[0] < found[2] < found[1]
PY
