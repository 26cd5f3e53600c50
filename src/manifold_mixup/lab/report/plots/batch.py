"""A mixed batch: each example, its partner, their mixture, and the mixed target."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from manifold_mixup import MixPlan, mix
from manifold_mixup.lab.report.plots.canvas import Picture, canvas, colour, picture

_OWN, _PARTNER = colour(2), colour(1)


def batch_picture(
    x: Tensor,
    y: Tensor,
    plan: MixPlan,
    *,
    classes: Sequence[str] | None = None,
    most: int = 6,
) -> Picture:
    """Draw what a plan mixes: a column for each example of a batch.

    From top to bottom: the example, its partner, their mixture if the plan mixes the input, and
    their shares of the target. A mixture of hidden states cannot be drawn, so the title names the
    layer instead.

    Args:
        x: a batch of images ``(batch, 1 or 3, height, width)`` or signals ``(batch, length)`` or
            ``(batch, 1, length)``, floating point or bytes. Values need not lie in 0 to 1: the
            whole batch is scaled.
        y: class indices ``(batch,)``.
        plan: the plan of the pass, such as ``mixup.plan``.
        classes: names of the classes; their indices by default.
        most: the number of examples to draw, from the start of the batch.

    Raises:
        ValueError: ``x`` holds neither images nor signals, ``y`` does not hold a class index for
            each example, a class has no name in ``classes``, or the plan has another batch size.
    """
    _check(x, y, plan)
    names = _names(y, classes)
    plan = plan.to("cpu")
    own = x.detach().cpu().float()
    rows = {"example": own, "partner": own[plan.perm]}
    if plan.layer == "input":
        rows["mixed"] = mix(own, plan)
    low, high = own.min().item(), own.max().item()
    count = min(most, len(x))
    shares = plan.target_lam.expand(len(x)).tolist()  # of the label, which Remix sets apart
    partners = [names[j] for j in plan.perm.tolist()]
    heights = [2.0] * len(rows) + [0.7]
    with canvas(1.9 * count + 0.8, sum(heights) + 0.6) as figure:
        panels: NDArray[np.object_] = figure.subplots(
            len(heights), count, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for line, (kind, values) in zip(panels, rows.items(), strict=False):
            line[0].set_ylabel(kind)
            _examples(line, values, low, high)
        for k, axes in enumerate(panels[-1]):
            _target(axes, shares[k], names[k], partners[k])
        panels[-1, 0].set_ylabel("target")
        figure.suptitle(_title(plan), fontsize=12, x=0.01, ha="left")
        return picture(figure)


def _check(x: Tensor, y: Tensor, plan: MixPlan) -> None:
    images = x.ndim == 4 and x.shape[1] in (1, 3)
    signals = x.ndim == 2 or (x.ndim == 3 and x.shape[1] == 1)
    if not images and not signals:
        raise ValueError(
            f"x must be images (batch, 1 or 3, height, width) or signals (batch, length) or "
            f"(batch, 1, length), but has shape {tuple(x.shape)}."
        )
    if y.shape != x.shape[:1] or y.is_floating_point():
        raise ValueError(
            f"y must hold {len(x)} class indices, but has shape {tuple(y.shape)} and {y.dtype}."
        )
    if plan.batch != len(x):
        raise ValueError(f"the plan pairs {plan.batch} examples, but x has {len(x)}.")


def _names(y: Tensor, classes: Sequence[str] | None) -> list[str]:
    """Return the class name of each example."""
    indices = y.tolist()
    if classes is None:
        return [f"class {index}" for index in indices]
    if not 0 <= min(indices) <= max(indices) < len(classes):
        raise ValueError(
            f"classes has {len(classes)} names, but y holds {min(indices)} to {max(indices)}."
        )
    return [classes[index] for index in indices]


def _examples(line: Sequence[Axes], values: Tensor, low: float, high: float) -> None:
    """Draw an example on each of the axes, on the scale of the batch."""
    span = (high - low) or 1.0
    for axes, value in zip(line, values, strict=False):
        if value.ndim == 3:
            pixels = ((value - low) / span).permute(1, 2, 0).squeeze(-1)
            axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1)
        else:
            axes.plot(value.flatten().numpy(), color="black", linewidth=1.5)
            axes.set_ylim(low - 0.05 * span, high + 0.05 * span)
        _bare(axes)


def _target(axes: Axes, share: float, own: str, partner: str) -> None:
    """Draw a bar of the two shares of a target."""
    axes.barh([0], [share], color=_OWN)
    axes.barh([0], [1 - share], left=[share], color=_PARTNER)
    axes.set(xlim=(0, 1), ylim=(-0.4, 0.4))
    axes.set_xlabel(f"{share:.0%} {own}\n{1 - share:.0%} {partner}", fontsize=11)
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)


def _title(plan: MixPlan) -> str:
    lam = f"λ = {plan.lam.item():.2f}" if plan.lam.ndim == 0 else "a λ for each example"
    where = "the input" if plan.layer == "input" else f"the output of {plan.layer!r}"
    return f"mixed: {where}, {lam}"
