#!/usr/bin/env bash
# PyTorch 2.13.0: giving an autograd.Function a forward-mode rule breaks the compiled graph of those who never use that rule.
#
# Expected: `jvp` beside `backward` changes nothing for a model that is trained by backward: one graph, as before.
# Seen: the compiler takes no Function that defines `jvp`, so the graph breaks there (three graphs in place of one), and with
# fullgraph=True it refuses. Forward-mode derivatives have to go another way, around the Function.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.13.0 numpy
env/bin/python - <<'PY'
import torch
from torch._dynamo.utils import counters

print("torch", torch.__version__)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class DoubleBothWays(Double):
    @staticmethod
    def jvp(ctx, tangent):
        return 2 * tangent


def compiled(function, **options):
    """Return how many graphs a compiled step has, and whether its gradient is right."""
    torch.compiler.reset()
    counters.clear()
    x = torch.ones(3, requires_grad=True)
    step = torch.compile(lambda x: function.apply(x.sin()).cos().sum(), backend="eager", **options)
    step(x).backward()
    expected = -torch.sin(2 * x.sin()) * 2 * x.cos()
    return counters["stats"]["unique_graphs"], torch.allclose(x.grad, expected)


for function in (Double, DoubleBothWays):
    found = compiled(function)
    print(f"{function.__name__:<15} graphs {found[0]}, gradient right: {found[1]}")
    assert found == (1 if function is Double else 3, True)
assert compiled(Double, fullgraph=True) == (1, True)
try:
    compiled(DoubleBothWays, fullgraph=True)
except Exception as error:
    print("fullgraph=True:", type(error).__name__, str(error).splitlines()[0])
    assert "jvp" in str(error)
else:
    raise SystemExit("the compiler takes a Function with jvp now")
PY
