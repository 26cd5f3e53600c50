"""``python -m manifold_mixup``: the versions, in one line for a report of a bug."""

import platform

import torch

from manifold_mixup import __version__


def versions() -> str:
    """Return the versions and the kind of machine, without names of hosts, users or folders."""
    parts = [
        f"manifold-mixup {__version__}",
        f"PyTorch {torch.__version__}",
        f"Python {platform.python_version()}",
        f"{platform.system()} {platform.machine()}",
        torch.backends.cpu.get_cpu_capability(),
    ]
    if torch.cuda.is_available():
        parts.append(f"CUDA {torch.version.cuda} ({torch.cuda.get_device_name()})")
    return ", ".join(parts)


if __name__ == "__main__":
    print(versions())  # noqa: T201 - a command
