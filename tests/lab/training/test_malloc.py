"""Freed memory is kept for the next step."""

import ctypes
import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from manifold_mixup.lab.training import malloc
if sys.argv[1] == "keep":
    assert malloc.keep_freed()
def step():
    torch.zeros(2**24).add_(1)  # 64 MB, 16,384 pages
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _is_gnu():
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not _is_gnu(), reason="needs GNU's C library")
def test_what_a_step_frees_is_not_fetched_anew():
    faults = {}
    for way in ("keep", "give back"):
        command = [sys.executable, "-c", COUNT, way]
        faults[way] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    # The heap may still grow a few times if small blocks follow a freed one.
    assert 3 * faults["keep"] < faults["give back"], faults
