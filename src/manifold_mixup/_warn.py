"""Warnings that point at the user's line, even if they are raised deep inside hooks."""

import sys
import warnings
from pathlib import Path

import torch

_INSIDE = tuple(f"{Path(str(file)).parent}/" for file in (__file__, torch.__file__))


def warn(message: str) -> None:
    """Warn at the innermost line that is neither in this library nor in PyTorch."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INSIDE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
