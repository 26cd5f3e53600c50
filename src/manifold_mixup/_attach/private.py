"""Warn about differential privacy, whose guarantee a mixed row does not keep."""

from torch import nn

from manifold_mixup._warn import warn


def warn_of_privacy(model: nn.Module) -> bool:
    """Warn if gradients of single examples are computed, as Opacus does; return whether it is so.

    It keeps them in an attribute of each parameter, whichever way it computes them.
    """
    private = any(
        hasattr(one, "grad_sample") or type(one).__name__ == "ExpandedWeight"
        for one in model.parameters()
    )
    if private:
        warn(_PRIVATE)
    return private


_PRIVATE = (
    "the gradient of each example is computed, in an attribute grad_sample of the parameters, as "
    "Opacus does for differential privacy. But a mixed row holds two examples, and each example is "
    "in two rows, so the privacy that is reported does not hold. Train without mixing, in "
    "mixup.paused(). If these gradients are not clipped for privacy, nothing is wrong."
)
