"""Temperature scaling: logits divided by one number, fitted on examples that it does not score.

Guo et al. (2017), "On Calibration of Modern Neural Networks", section 4.2.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

HALF = 40
"""The fewest examples that a temperature is fitted on; it is then uncertain by about a fifth."""


class NoTemperature(ValueError):
    """The examples determine no temperature."""


@dataclass(frozen=True)
class Scaled:
    """Logits divided by temperatures that were fitted on other examples.

    Attributes:
        logits: the scaled logits, ``(n, classes)``, float64.
        temperatures: those that the first and the second half were divided by.
    """

    logits: Tensor
    temperatures: tuple[float, float]


def twofold(logits: Tensor, y: Tensor, *, generator: torch.Generator) -> Scaled:
    """Divide each random half of the examples by the temperature of the other half.

    Args:
        logits: the logits, ``(n, classes)``.
        y: the labels, ``(n,)``.
        generator: a CPU generator, which draws the halves.

    Raises:
        NoTemperature: a half is too small or has no best temperature.
    """
    order = torch.randperm(len(y), generator=generator).to(y.device)
    first, second = order.tensor_split(2)
    scaled = logits.double().clone()
    fitted = temperature(scaled[second], y[second]), temperature(scaled[first], y[first])
    scaled[first] /= fitted[0]
    scaled[second] /= fitted[1]
    return Scaled(scaled, fitted)


def temperature(logits: Tensor, y: Tensor) -> float:
    """Return the temperature T at which ``logits / T`` has the lowest NLL.

    The NLL is convex in β = 1/T, and its slope is E_p[z] - z_y averaged over the examples, with
    p = softmax(βz). The root of the slope is bracketed and found by Brent's method.

    Args:
        logits: the logits z, ``(n, classes)``.
        y: the labels, ``(n,)``.

    Raises:
        NoTemperature: there are fewer than `HALF` examples, a logit is not finite, the logits do
            not differ, all predictions are right, so that T = 0 is best, or equal probabilities
            predict the labels as well, so that T is infinite.

    Examples:
        >>> odds = torch.tensor([[3.0, 1.0]]).log().expand(40, 2)
        >>> y = torch.tensor([0, 0, 0, 1] * 10)
        >>> round(temperature(3 * odds, y), 6)
        3.0
    """
    if len(y) < HALF:
        raise NoTemperature(
            f"a temperature needs at least {HALF} examples to be fitted on, but there are "
            f"{len(y)}. Test more examples."
        )
    if not logits.isfinite().all():
        raise NoTemperature(
            f"{int((~logits.isfinite()).sum())} of the {logits.numel()} logits are not finite, so "
            f"that no temperature can be fitted. Find out why the model returns them."
        )
    z = logits.double()
    z = z - z.amax(1, keepdim=True)
    if not (scale := -z.min().item()):
        raise NoTemperature(
            f"the logits of each of the {len(y)} examples to fit a temperature on are equal, so "
            f"that no temperature changes anything. Train the model first."
        )
    z = z / scale  # so that the root is near 1, however great the logits are
    own = z.gather(1, y[:, None])[:, 0]
    if (own == 0).all():
        raise NoTemperature(
            f"all {len(y)} predictions to fit a temperature on are right, so that lower "
            f"temperatures are always better. Test more examples, until some are wrong."
        )

    def slope(beta: float) -> float:
        return ((beta * z).softmax(1) * z).sum(1).sub(own).mean().item()

    if slope(0.0) >= 0:
        raise NoTemperature(
            f"the logits predict the {len(y)} labels to fit a temperature on no better than equal "
            f"probabilities, so that higher temperatures are always better. Train the model first."
        )
    high = 1.0
    while slope(high) <= 0:
        high *= 2
    return float(scale / brentq(slope, 0.0, high, xtol=1e-300, rtol=1e-12))
