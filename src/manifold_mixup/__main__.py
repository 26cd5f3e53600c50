"""``python -m manifold_mixup``: print the versions, as one line for a bug report.

With arguments it is the command ``manifold-mixup``.
"""

import platform
import sys

import torch

from manifold_mixup import __version__


def versions() -> str:
    """Return the versions and the machine type, without host, user or folder names."""
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
    if sys.argv[1:]:
        from manifold_mixup.lab.cli import main

        main()
    print(versions())  # noqa: T201 - a command
