"""Parameters drawn thin however small, so that tests of faults meet fast proofs too."""

import pytest
import torch
from torch import Tensor, nn

from manifold_mixup._proof import gradients, thin


def make_all_thin(patch: pytest.MonkeyPatch) -> None:
    """Have parameters of PyTorch's own layers drawn thin whatever their size."""

    def usual(parameter: Tensor) -> bool:
        plain = type(parameter) is nn.Parameter and parameter.layout is torch.strided
        return (
            plain and parameter.is_floating_point() and parameter.ndim > 1 and parameter.numel() > 0
        )

    patch.setattr(thin, "_is_usual", usual)
    for module in (thin, gradients):
        patch.setattr(module, "LARGE", 1)
