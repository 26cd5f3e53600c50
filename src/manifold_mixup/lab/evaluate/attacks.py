"""White-box attacks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Move every input by ``eps`` in the direction that raises its loss fastest.

    The fast gradient sign method, ``x + eps * sign(∂ cross-entropy / ∂x)``, on the model as it
    is; put it in eval mode first.

    Args:
        model: returns logits, ``(n, classes)``.
        x: inputs, ``(n, …)``.
        y: labels, ``(n,)``.
        eps: the step, in the units of ``x``.
        bounds: the attacked inputs are clamped to these values.
    """
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    attacked = x.detach() + eps * slope.sign()
    return attacked if bounds is None else attacked.clamp(*bounds)
