"""Box: the part of a state's positions that comes from the partner (CutMix)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

AXES = 3
"""The most axes that positions have."""
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
            if not bool(((values >= 0) & (values <= 1)).all()):
                raise ValueError(f"{name} must lie in 0 to 1, but is {values.tolist()}.")
        missing = AXES - centre.shape[-1]
        centre = torch.nn.functional.pad(centre, (0, missing), value=0.5)
        object.__setattr__(self, "centre", centre)
        object.__setattr__(self, "share", share)
        object.__setattr__(self, "borders", _borders(centre, share))

    def __repr__(self) -> str:
        if isinstance(self.share, Tensor) and self.share.ndim:
            return f"Box({len(self.share)} boxes)"
        centre = torch.as_tensor(self.centre).tolist()
        return f"Box(({', '.join(f'{at:.3g}' for at in centre)}), share={float(self.share):.3g})"

    def to(self, device: torch.device, *, non_blocking: bool = False) -> "Box":
        """Return the box with its borders on a device."""
        moved = object.__new__(Box)
        borders = self.borders.to(device, non_blocking=non_blocking)
        for name, value in (("centre", self.centre), ("share", self.share), ("borders", borders)):
            object.__setattr__(moved, name, value)
        return moved

    def own(self, sides: Sequence[int]) -> Tensor:
        """Return which positions an example keeps, bool ``(1, *sides)`` or ``(batch, *sides)``."""
        borders = self.borders[..., len(sides) - 1, :, :].reshape(-1, AXES, 2)
        inside = None
        for axis, side in enumerate(sides):
            # rounded to the nearest position
            low, high = ((borders[:, axis] * side + _UNIT // 2) >> 30).unbind(1)
            places = torch.arange(side, device=borders.device)
            along = (places >= low[:, None]) & (places < high[:, None])
            along = along.view(-1, *(side if axis == at else 1 for at in range(len(sides))))
            inside = along if inside is None else inside & along
        return ~inside  # type: ignore[operator]


def _borders(centre: Tensor, share: Tensor) -> Tensor:
    kinds = []
    for axes in range(1, AXES + 1):
        half = share[..., None] ** (1 / axes) / 2
        borders = torch.stack([centre - half, centre + half], dim=-1).clamp(0, 1)
        kinds.append((borders * _UNIT).round().long())
    return torch.stack(kinds, dim=-3)
