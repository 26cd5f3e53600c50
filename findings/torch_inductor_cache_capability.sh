#!/usr/bin/env bash
# PyTorch 2.14.1: code compiled for the CPU fails under another ATEN_CPU_CAPABILITY if the compiler's cache is shared.
#
# Guess: the cache belongs to a setting of the capability as it does to the code, so a second process with
# ATEN_CPU_CAPABILITY=default and the cache of the first compiles, as it does with a cache of its own.
# Seen: it takes over the precompiled header of the first process, which was made for other vector instructions, and the C++
# compiler stops with "'at::vec' has not been declared". Needs a processor with AVX2 or AVX-512, and g++.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/pip install --quiet --no-compile torch==2.14.1 numpy
cat > compiled.py <<'PY'
import sys

import torch


@torch.compile
def mixed(x, partners, share):
    return torch.lerp(x.index_select(0, partners), x, share[:, None])


x, partners = torch.randn(6, 8), torch.tensor([1, 2, 3, 4, 5, 0])
try:
    mixed(x, partners, torch.rand(6))
except Exception as error:
    found = [line for line in str(error).splitlines() if "error:" in line]
    print(f"{torch.backends.cpu.get_cpu_capability()}: {type(error).__name__}: {found[0].split('error:')[1].strip()}")
    sys.exit(3)
print(f"{torch.backends.cpu.get_cpu_capability()}: compiled")
PY
run() { env "$@" OMP_NUM_THREADS=1 env/bin/python -W ignore compiled.py 2>/dev/null; }
echo "with one cache:"
run TORCHINDUCTOR_CACHE_DIR="$folder/one"
status=0
run TORCHINDUCTOR_CACHE_DIR="$folder/one" ATEN_CPU_CAPABILITY=default || status=$?
echo "with a cache of its own:"
run TORCHINDUCTOR_CACHE_DIR="$folder/other" ATEN_CPU_CAPABILITY=default
test "$status" = 3 || { echo "this has changed"; exit 1; }
