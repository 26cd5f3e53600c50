"""Noise on mixed states (noisy feature mixup)."""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from manifold_mixup import _operators


@dataclass(frozen=True)
class Noise:
    """Noise on the mixed state (noisy feature mixup, Lim et al., 2022, Eq. 4).

    The mixed state is multiplied by ``1 + s_m U`` and gets ``s_a N`` added, with ``U`` uniform in
    -1 to 1 and ``N`` standard normal for each element, and ``s_m`` and ``s_a`` drawn for each batch
    as ``multiply`` and ``add`` times Beta(2, 5). It works on top of any way of mixing.

    Args:
        add: the largest standard deviation of what is added, 0 or more.
        multiply: the largest relative change, 0 or more.

    Raises:
        ValueError: a number is negative or not finite.
    """

    add: float = 0.4
    multiply: float = 0.2

    def __post_init__(self) -> None:
        for name in ("add", "multiply"):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, but is {value!r}.")


@dataclass(frozen=True, eq=False)
class DrawnNoise:
    """The noise of one step.

    Args:
        add: standard deviation of what is added, float32 ``()``.
        multiply: largest relative change, float32 ``()``.
        key: from which the numbers of each element are drawn, int64 ``()`` on the CPU.
    """

    add: Tensor
    multiply: Tensor
    key: Tensor

    def __post_init__(self) -> None:
        _operators.register()

    def __repr__(self) -> str:
        add, multiply = float(self.add), float(self.multiply)
        return f"DrawnNoise(add={add:.3g}, multiply={multiply:.3g})"

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "DrawnNoise":
        """Return the noise with its levels on a device."""
        add, multiply = (
            level.to(device, non_blocking=non_blocking) for level in (self.add, self.multiply)
        )
        return DrawnNoise(add, multiply, self.key)

    def on(self, x: Tensor, part: int = 0) -> Tensor:
        """Return a state with the noise.

        Args:
            x: the mixed state.
            part: number of the tensor, if a state has several; each has noise of its own.
        """
        if x.is_complex():
            return torch.view_as_complex(self.on(torch.view_as_real(x), part))
        key = self.key ^ (part << 1)
        scale = _operators.numbers(key, x.shape, x.device, normal=False) * 2 - 1
        shift = _operators.numbers(key ^ 1, x.shape, x.device, normal=True)
        noisy = x * (1 + self.multiply.to(x.device) * scale) + self.add.to(x.device) * shift
        return noisy.to(x.dtype)
