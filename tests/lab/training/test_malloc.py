"""Freed memory is kept for the next step."""

import ctypes
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from manifold_mixup.lab.training import malloc

def step():
    torch.zeros(2**24).add_(1)  # 64 MB, 16,384 pages

def faults():
    step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
assert malloc.keep_freed()
print(usual, faults())
"""


def _is_gnu():
    return sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


@pytest.mark.skipif(not _is_gnu(), reason="needs GNU's C library")
def test_what_a_step_frees_is_not_fetched_anew():
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, capture_output=True, check=True)
    usual, kept = map(int, done.stdout.split())
    # The heap may still grow a few times if small blocks follow a freed one.
    assert 3 * kept < usual
