"""The time to import the library, in new processes."""

import statistics
import subprocess
import sys

_PROGRAM = (
    "import time; a = time.perf_counter(); import torch; b = time.perf_counter(); "
    "from manifold_mixup import *; print(b - a, time.perf_counter() - b)"
)


def times(count: int) -> dict[str, float]:
    """Return the median milliseconds to import torch and, after it, this library.

    All names of the library are imported, because it imports its parts lazily.
    """
    runs = [_printed() for _ in range(count)]
    torch_times, library_times = zip(*runs, strict=True)
    return {
        "torch": 1000 * statistics.median(torch_times),
        "manifold_mixup": 1000 * statistics.median(library_times),
    }


def _printed() -> list[float]:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], check=True, capture_output=True)
    return [float(word) for word in done.stdout.split()]
