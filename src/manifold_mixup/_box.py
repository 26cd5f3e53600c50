"""Box: the part of a state's positions that comes from the partner (CutMix)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _operators

AXES = 3
"""The most axes that positions have."""
Ranges = tuple[tuple[int, int], ...]
"""On each axis, the first position in a box and the one after the last."""
UNTOUCHED = 1
"""The version of the positions outside of a box, which were written into once."""
# Borders are integers in units of 2^-30 of a side, so that every device and compiler rounds alike.
_UNIT = 2**30


@dataclass(frozen=True, eq=False)
class Box:
    """A box of positions that comes from the partner, relative to the sides of a state.

    Of ``n`` axes, each side is ``share ** (1 / n)`` of the state's around the centre, cut off at
    the border.

    Args:
        centre: its centre in 0 to 1, for each of up to three axes; or ``(batch, 3)``. Axes that are
            not given have ½.
        share: the share of the positions that it holds where nothing is cut off, 0 to 1; or one
            for each example.

    Raises:
        ValueError: an argument is out of range or has the wrong shape.

    Examples:
        >>> Box((0.5, 0.75), 0.25).own((4, 4))[0].int()
        tensor([[1, 1, 1, 1],
                [1, 1, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """

    centre: Sequence[float] | Tensor
    share: float | Tensor
    borders: Tensor = field(init=False, repr=False)
    """For 1 to 3 axes, the borders on each: int64 ``(3, 3, 2)`` or ``(batch, 3, 3, 2)``."""
    _numbers: list[int] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        centre = torch.as_tensor(self.centre, dtype=torch.float64, device="cpu")
        share = torch.as_tensor(self.share, dtype=torch.float64, device="cpu")
        if not 1 <= centre.ndim <= 2 or not 1 <= centre.shape[-1] <= AXES:
            raise ValueError(
                f"centre must have a number for each of up to {AXES} axes, but has shape "
                f"{tuple(centre.shape)}."
            )
        if share.shape != centre.shape[:-1]:
            raise ValueError(
                f"share must have shape {tuple(centre.shape[:-1])}, as many as there are centres, "
                f"but has {tuple(share.shape)}."
            )
        for name, values in (("centre", centre), ("share", share)):
            if not _are_shares(values):
                raise ValueError(f"{name} must be between 0 and 1, but is {values.tolist()}.")
        if missing := AXES - centre.shape[-1]:
            centre = torch.nn.functional.pad(centre, (0, missing), value=0.5)
        if share.ndim:
            self._take(centre, share, _borders(centre, share))
        else:
            self._take(centre, share, None, _borders_of_one(centre.tolist(), share.item()))

    @classmethod
    def unchecked(cls, centre: Sequence[float], share: float) -> "Box":
        """Return a single box with a centre on each of `AXES`, whose numbers are right."""
        box = object.__new__(cls)
        box._take(centre, share, None, _borders_of_one(centre, share))
        return box

    def _take(
        self,
        centre: Sequence[float] | Tensor,
        share: float | Tensor,
        borders: Tensor | None,
        numbers: list[int] | None = None,
    ) -> None:
        """Set the attributes; of a single box, the borders are also known as Python numbers."""
        if borders is None:
            borders = torch.tensor(numbers, device="cpu").view(AXES, AXES, 2)
        parts = {"centre": centre, "share": share, "borders": borders, "_numbers": numbers}
        for name, value in parts.items():  # PyTorch 2.10 cannot trace an update of the attributes
            object.__setattr__(self, name, value)
        _operators.register()

    def __repr__(self) -> str:
        if isinstance(self.share, Tensor) and self.share.ndim:
            return f"Box({len(self.share)} boxes)"
        centre = torch.as_tensor(self.centre).tolist()
        return f"Box(({', '.join(f'{at:.3g}' for at in centre)}), share={float(self.share):.3g})"

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Box":
        """Return the box with its borders on a device."""
        moved = object.__new__(Box)
        borders = self.borders.to(device, non_blocking=non_blocking)
        moved._take(self.centre, self.share, borders, self._numbers)
        return moved

    def own(self, sides: Sequence[int]) -> Tensor:
        """Return which positions an example keeps, bool ``(1, *sides)`` or ``(batch, *sides)``."""
        ranges = self.ranges(sides)
        if ranges is not None:
            return _outside(ranges, sides)
        borders = self.borders[..., len(sides) - 1, :, :].reshape(-1, AXES, 2)
        inside: Tensor | None = None
        for axis, side in enumerate(sides):
            low, high = _nearest(borders[:, axis], side).unbind(1)
            places = torch.arange(side, device=borders.device)
            along = (places >= low[:, None]) & (places < high[:, None])
            along = along.view(-1, *(side if axis == at else 1 for at in range(len(sides))))
            inside = along if inside is None else inside & along
        return ~inside  # type: ignore[operator]

    def weigh(self, sides: Sequence[int]) -> tuple[Tensor, Tensor, Ranges | None]:
        """Return `own`, the share of the positions that is kept, and `ranges`.

        The share has shape ``()`` or ``(batch,)``.
        """
        ranges = self.ranges(sides)
        if ranges is not None:
            inside = math.prod(high - low for low, high in ranges) / math.prod(sides)
            share = torch.scalar_tensor(1 - inside, dtype=torch.float32, device="cpu")
            return _outside(ranges, sides), share, ranges
        own = self.own(sides)
        mean = own.flatten(1).float().mean(1)
        return own, mean if self.borders.ndim == 4 else mean[0], None

    def ranges(self, sides: Sequence[int]) -> Ranges | None:
        """Return the positions of a single box, or None.

        None if there is a box each, or if it is on another device or in compiled code.
        """
        if torch.compiler.is_compiling() or self.borders.device.type != "cpu":
            return None
        if self._numbers is None:
            return None
        borders = self._numbers[2 * AXES * (len(sides) - 1) :]
        return tuple(
            (_nearest(borders[2 * axis], side), _nearest(borders[2 * axis + 1], side))
            for axis, side in enumerate(sides)
        )


def _outside(ranges: Ranges, sides: Sequence[int]) -> Tensor:
    """Return which positions are not in a box, bool ``(1, *sides)``: filled, not compared."""
    own = torch.ones(1, *sides, dtype=torch.bool, device="cpu")
    inside = own[0]
    for axis, (low, high) in enumerate(ranges):
        inside = inside.narrow(axis, low, high - low)
    inside.fill_(False)
    return own


def _nearest(border: Any, side: int) -> Any:
    """Return the number of positions before a border, rounded; of an integer or of integers."""
    return (border * side + _UNIT // 2) >> 30


def _are_shares(values: Tensor) -> bool:
    if values.ndim > 1:
        return bool(((values >= 0) & (values <= 1)).all())
    numbers: Any = values.tolist() if values.ndim else [values.item()]
    return all(0 <= number <= 1 for number in numbers)


def _borders_of_one(centre: Sequence[float], share: float) -> list[int]:
    """List the borders of a single box, in Python, which takes a tenth of the time."""
    borders = []
    for axes in range(1, AXES + 1):
        half = share ** (1 / axes) / 2
        for at in centre:
            low, high = at - half, at + half
            borders += [
                round(low * _UNIT) if low > 0 else 0,
                round(high * _UNIT) if high < 1 else _UNIT,
            ]
    return borders


def _borders(centre: Tensor, share: Tensor) -> Tensor:
    kinds = []
    for axes in range(1, AXES + 1):
        half = share[..., None] ** (1 / axes) / 2
        borders = torch.stack([centre - half, centre + half], dim=-1).clamp(0, 1)
        kinds.append((borders * _UNIT).round().long())
    return torch.stack(kinds, dim=-3)
