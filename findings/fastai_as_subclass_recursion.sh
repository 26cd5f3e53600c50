#!/usr/bin/env bash
# fastai 2.8.12 with PyTorch 2.14.1: once fastai is imported, a tensor subclass that lives across a graph break recurses without end.
#
# Expected: torch.compile runs the code around a graph break as it runs without fastai, which the model does not use.
# Seen: importing fastai replaces Tensor.as_subclass by a Python function that calls torch.as_subclass, where fastai keeps the original.
# After the break the compiler restores the class of the tensor by t.as_subclass, from code that it compiles itself, and ends in
# "RecursionError: maximum recursion depth exceeded". Eager code and code without a break are not affected.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 fastai==2.8.12 fastcore==2.2.41
cat > broken.py <<'PY'
import sys

if sys.argv[1] == "with":
    import fastai.torch_core  # noqa: F401
import torch


class Marked(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def around(x, breaks):
    marked = (2 * x).as_subclass(Marked)
    if breaks:
        torch._dynamo.graph_break()
    return marked + 1


for breaks in (False, True):
    try:
        total = torch.compile(around, backend="eager")(torch.ones(3), breaks).sum().item()
        print(f"{sys.argv[1]} fastai, {'a' if breaks else 'no'} graph break: {total}")
    except RecursionError as error:
        print(f"{sys.argv[1]} fastai, {'a' if breaks else 'no'} graph break: RecursionError: {error}"[:90])
PY
env/bin/python -W ignore broken.py without | tee without.txt
env/bin/python -W ignore broken.py with | tee with.txt
[ "$(grep -c ': 9.0$' without.txt)" = 2 ]
grep -q 'no graph break: 9.0$' with.txt
grep -q ', a graph break: RecursionError' with.txt || { echo "it runs now: this has changed"; exit 1; }
