"""Warn once about a model that is trained in eval mode, in which nothing is mixed."""

from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._tree import leaves
from manifold_mixup._warn import warn


class EvalModeWatch:
    """Watches for two training steps in eval mode without one in train mode between them.

    Validation does not run backward, and an adversarial attack does not change parameters between
    two backward passes. So if the parameters changed before a second backward, this is a second
    training step. The model was then left in eval mode: ``from_pretrained`` returns it so, or
    ``model.train()`` was forgotten after validation.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.warned = False
        self.before: tuple[int, Tensor | None] | None = None

    def watch(self, output: Any) -> None:
        """Watch for backward through an output from eval mode, whose loss is being computed."""
        if self.warned or not torch.is_grad_enabled():
            return
        for _, tensor in leaves(output):
            if tensor.grad_fn is not None:
                tensor.register_hook(self._stepped)
                return

    def reset(self) -> None:
        """Start over, because a pass in train mode was seen."""
        self.before = None

    def _stepped(self, grad: Tensor) -> None:
        del grad
        if self.warned:
            return
        now = self._state()
        if self.before is not None and _differ(self.before, now):
            self.warned = True
            warn(_EVAL_MODE)
        self.before = now

    def _state(self) -> tuple[int, Tensor | None]:
        """Return the sum of the parameters' versions, and a few of their values.

        The values are needed because fused optimizers do not increment versions.
        """
        parameters = list(self.model.parameters())
        plain = [p for p in parameters if p.requires_grad and type(p.data) is Tensor]
        few = [p.detach().reshape(-1)[:4] for p in plain[-16:] if p.device == plain[-1].device]
        values = torch.cat([part.float() for part in few]) if few else None
        return sum(parameter._version for parameter in parameters), values


def _differ(before: tuple[int, Tensor | None], now: tuple[int, Tensor | None]) -> bool:
    if before[0] != now[0] or before[1] is None or now[1] is None:
        return before[0] != now[0]
    return before[1].shape != now[1].shape or not torch.equal(before[1], now[1])


_EVAL_MODE = (
    "the model is being trained in eval mode, in which nothing is mixed: backward ran twice "
    "through a wrapped criterion, the parameters changed in between, and there was no forward pass "
    "in train mode since. Call model.train() before training and after validation; from_pretrained "
    "returns models in eval mode."
)
