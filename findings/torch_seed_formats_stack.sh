#!/usr/bin/env bash
# PyTorch 2.14.1: without an accelerator, torch.manual_seed formats the caller's whole Python stack three times.
#
# Guess: without a GPU there is nothing to seed but the CPU's generator, so a seed takes the same time wherever it is set.
# Seen: CUDA, XPU and MTIA each keep the latest seed for when they are started, with a traceback of who set it, as text. 100 calls
# deeper, a seed formats 300 frames more. A test suite that seeds in every test spends several hundredths of its time on that.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 numpy
cat > seeded.py <<'PY'
import traceback

import torch

formatted = []
original = traceback.format_stack
traceback.format_stack = lambda *given: formatted.append(original(*given)) or formatted[-1]


def seed(depth):
    return one_deeper(depth - 1) if depth else torch.manual_seed(0)


def one_deeper(depth):  # repeated lines of one function would be summed up
    return seed(depth - 1) if depth else torch.manual_seed(0)


def counted(depth):
    formatted.clear()
    seed(depth)
    return len(formatted), sum(map(len, formatted))


if torch.accelerator.is_available():
    raise SystemExit("needs a machine without an accelerator")
(times, frames), (again, deeper) = counted(0), counted(100)
print(f"the stack is formatted {times} times, {deeper - frames} frames more at 100 calls deeper")
raise SystemExit(0 if (times, again, deeper - frames) == (3, 3, 300) else "this has changed")
PY
env/bin/python -W ignore seeded.py
