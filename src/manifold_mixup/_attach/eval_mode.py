"""A model that is trained in eval mode, where nothing is mixed: said once."""

from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._tree import leaves
from manifold_mixup._warn import warn


class EvalModeWatch:
    """Watches for training steps in eval mode, as long as none was seen in train mode.

    Validation runs no backward, and an attack changes no parameter between two of them. So a second
    backward after a change of the parameters is a second training step, and the model was never in
    train mode: it was left in eval mode, as ``from_pretrained`` gives it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.over = False  # once it was said, or a training pass was seen
        self.before: tuple[int, Tensor | None] | None = None

    def watch(self, output: Any) -> None:
        """Watch for backward through an output of eval mode, for which a loss is asked."""
        if self.over or not torch.is_grad_enabled():
            return
        for _, tensor in leaves(output):
            if tensor.grad_fn is not None:
                tensor.register_hook(self._stepped)
                return

    def _stepped(self, grad: Tensor) -> None:
        del grad
        if self.over:
            return
        now = self._state()
        if self.before is not None and _differ(self.before, now):
            self.over = True
            warn(_EVAL_MODE)
        self.before = now

    def _state(self) -> tuple[int, Tensor | None]:
        """Return the sum of the parameters' versions, and a few of their values.

        Fused optimizers write without counting versions.
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
    "the model is trained in eval mode, where nothing is mixed: backward ran twice through a "
    "wrapped criterion, the parameters changed in between, and there was no forward pass in train "
    "mode. Call model.train() before training; models of from_pretrained come in eval mode."
)
