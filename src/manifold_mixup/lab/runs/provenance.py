"""The provenance of a result: code, machine and data."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manifold_mixup.lab.data import Data

PACKAGES = ("manifold-mixup", "torch", "accelerate", "torchvision", "timm", "numpy", "mnist1d")


@cache
def describe() -> dict[str, Any]:
    """Describe the code and the machine, without host, user or folder names.

    The commit is that of the first call, when the code was loaded, rather than a later one.
    """
    return {
        "git": git_hash(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cpu": _cpu_name(),
            "cores": usable_cores(),
            "instructions": torch.backends.cpu.get_cpu_capability(),  # such as AVX2
        },
    }


def git_hash() -> str | None:
    """Return the git commit of this package's source, or ``None`` if git does not track it.

    An installed package is not tracked, even inside the folder of another repository.
    """
    file = Path(__file__)
    try:
        _git("ls-files", "--error-unmatch", file.name, folder=file.parent)
        commit = _git("rev-parse", "HEAD", folder=file.parent)
        changes = _git("status", "--porcelain", "--untracked-files=no", ".", folder=file.parents[2])
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-dirty" if changes else commit


def usable_cores() -> int:
    """Return the number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes() -> int:
    """Return the number of processes that train together, as ``accelerate launch`` sets it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return the rank of this process among those that train together."""
    return int(os.environ.get("RANK", "0"))


def fingerprint(data: Data) -> str:
    """Return the SHA-256 of a data set's arrays."""
    unlabelled = () if data.unlabelled is None else (data.unlabelled,)
    return digest(data.x, data.y, data.x_test, data.y_test, *unlabelled)


def digest(*tensors: Tensor) -> str:
    """Return the SHA-256 of tensors."""
    sha256 = hashlib.sha256()
    for tensor in tensors:
        sha256.update(tensor.numpy().tobytes())
    return sha256.hexdigest()


def _git(*arguments: str, folder: Path) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
