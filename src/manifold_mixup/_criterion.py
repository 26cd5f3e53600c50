"""A criterion that mixes the targets as the forward pass mixed the hidden states."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from manifold_mixup._hooks import COMPILE_FIRST
from manifold_mixup._targets import Criterion

if TYPE_CHECKING:
    from manifold_mixup._mixup import ManifoldMixup


class MixedCriterion(nn.Module):
    """Call as ``criterion(output, target, *more)``; see `ManifoldMixup.wrap`."""

    def __init__(self, criterion: Criterion, mixup: "ManifoldMixup") -> None:
        super().__init__()
        self.criterion = criterion
        self.mixup = mixup
        # Compiled code has no graph to follow from the output to its pass.
        self._target = torch.compiler.disable(mixup.target, reason=COMPILE_FIRST)

    def forward(self, output: Any, target: Any, *more: Any, **options: Any) -> Any:
        """Return the loss of ``output`` against the targets, mixed as its forward pass was."""
        return self._target(target, output).loss(self.criterion, output, *more, **options)

    def __reduce__(self) -> tuple[Any, tuple[Criterion, "ManifoldMixup"]]:
        # A copy asks the copy of `mixup`, which is attached to nothing: it is the plain criterion.
        return MixedCriterion, (self.criterion, self.mixup)
