#!/usr/bin/env bash
# PyTorch 2.14.1: in a compiled autograd.Function whose backward asks for the layout of its gradient, the gradient has another layout.
#
# Expected: a gradient that is channels-last is so in the compiled backward too, and a backward that branches on it returns the same.
# Seen: the compiled backward is told that the gradient is contiguous, whatever it is, so it takes the other branch without a word.
# Eager and compiled training then run different code. Without the question the gradient keeps its layout.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 numpy
env/bin/python - <<'PY'
import torch

print("torch", torch.__version__)


class Asks(torch.autograd.Function):
    """The gradient is multiplied by 2 if its backward sees channels-last, else by 1."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        last = grad.is_contiguous(memory_format=torch.channels_last)
        return grad * (2.0 if last else 1.0)


class AsksNot(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 2.0


def images():
    return torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)


def factor(function, backend):
    """Return by what a channels-last gradient was multiplied, and the strides of the result."""
    torch.compiler.reset()
    step = function.apply if backend is None else torch.compile(lambda x: function.apply(x), backend=backend)
    x = images().requires_grad_()
    step(x).backward(images())
    return x.grad.unique().tolist(), x.grad.stride()


last = images().stride()
for function, expected in ((Asks, 1.0), (AsksNot, 2.0)):
    for backend in (None, "eager", "aot_eager"):
        found = factor(function, backend)
        print(f"{function.__name__:<9} {backend or 'not compiled':<13} factor {found[0]}, strides {found[1]}")
        assert found[0] == [2.0 if backend is None else expected]
        assert found[1] == last
PY
