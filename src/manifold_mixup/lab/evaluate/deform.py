"""The 17 deformations of the test set in Tables 4 and 9 of the paper.

Every output pixel reads the input at ``matrix @ (pixel - centre) + centre``, in (row, column);
rotations and shears draw an angle for each image, zooms are the same for all. The matrices are
those of the authors' code. Where paper and code disagree, or leave a choice:

- *Fill*: black, 0 in pixels, as the paper says. The code deforms standardised images and fills with
  0 there, the mean colour; ``fill=mean`` has it so.
- *Interpolation*: nearest, which is the code's (scipy's ``order=0``); the paper says nothing.
- *Centre*: the middle of the image, (n - 1) / 2 in each direction. The code's is n / 2 + 0.5, one
  pixel further down and right, so that its zooms are off by a part of a pixel; `warp` can do it.
- *Edge*: a pixel is a square, and all of it can be read. ``scipy`` in mode ``"constant"`` takes the
  outer half of the rim for outside, in mode ``"grid-constant"`` it does as we do.
- *Shear*: the matrix ``[[1, -sin s], [0, cos s]]`` mirrors columns beyond 90°, where the paper's
  last three shears lie; near 180° it is hardly a shear, so that accuracy rises again there.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["nearest", "bilinear"]


@dataclass(frozen=True)
class Deformation:
    """One row of Table 9.

    Attributes:
        kind: what is done.
        amount: the greatest angle in degrees, drawn from ``-amount`` to ``amount``; of a zoom, the
            side of what is read over that of the image: 0.2 enlarges the middle fifth, 1.8 shrinks
            the image and surrounds it.
    """

    kind: Literal["rotation", "shear", "zoom"]
    amount: float

    def __str__(self) -> str:
        """Name it as Table 9 does."""
        if self.kind == "zoom":
            return f"zoom {'in' if self.amount < 1 else 'out'} {100 * self.amount:.0f} %"
        return f"{self.kind} ±{self.amount:.1f}°"


DEFORMATIONS = (
    *(Deformation("rotation", angle) for angle in (20, 40, 60, 80)),
    *(Deformation("shear", math.degrees(angle)) for angle in (0.5, 1, 2, 2.5, 3)),
    *(Deformation("zoom", size) for size in (0.2, 0.4, 0.6, 0.8, 1.2, 1.4, 1.6, 1.8)),
)


def deform(
    x: Tensor,
    deformation: Deformation,
    *,
    generator: torch.Generator,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
) -> Tensor:
    """Deform every image of a batch, each by an angle of its own.

    Args:
        x: images, ``(n, channels, height, width)``, bytes or floating point, on any device.
        deformation: what to do; `DEFORMATIONS` are the paper's.
        generator: a CPU generator for the angles, one number an image; zooms draw none.
        interpolation: how pixels between pixels are read.
        fill: what lies outside of the image, in the units of ``x``; one value for all or one a
            channel.

    Returns:
        The images, with the shape, dtype and device of ``x``; bytes are rounded.

    Raises:
        ValueError: ``x`` holds no images.
    """
    if x.ndim != 4:
        raise ValueError(
            f"only images can be deformed, (n, channels, height, width), but x has shape "
            f"{tuple(x.shape)}."
        )
    matrices = draw_matrices(deformation, len(x), generator=generator)
    return warp(x, matrices, interpolation=interpolation, fill=fill)


def draw_matrices(deformation: Deformation, count: int, *, generator: torch.Generator) -> Tensor:
    """Draw the matrix of each image, ``(count, 2, 2)``, float64."""
    if deformation.kind == "zoom":
        return deformation.amount * torch.eye(2, dtype=torch.float64).expand(count, 2, 2)
    share = 2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1
    angle = math.radians(deformation.amount) * share
    cos, sin, one, zero = angle.cos(), angle.sin(), torch.ones_like(angle), torch.zeros_like(angle)
    first = cos if deformation.kind == "rotation" else one
    below = sin if deformation.kind == "rotation" else zero
    return torch.stack([first, -sin, below, cos], dim=1).view(count, 2, 2)


def warp(
    x: Tensor,
    matrices: Tensor,
    *,
    interpolation: Interpolation = "nearest",
    fill: float | Sequence[float] = 0.0,
    centre: tuple[float, float] | None = None,
) -> Tensor:
    """Read every image at ``matrix @ (pixel - centre) + centre``.

    Args:
        x: images, ``(n, channels, height, width)``.
        matrices: one an image, ``(n, 2, 2)``, of (row, column).
        interpolation: as for `deform`.
        fill: as for `deform`.
        centre: the row and column that stay where they are; ``None`` is the middle.
    """
    height, width = x.shape[2:]
    middle = ((height - 1) / 2, (width - 1) / 2) if centre is None else centre
    outside = torch.as_tensor(fill, dtype=torch.float64).to(x.device, x.dtype).view(-1, 1)
    read = _nearest if interpolation == "nearest" else _bilinear
    parts = [
        read(part, _places(part, some.to(x.device), middle), outside)
        for part, some in zip(x.split(1000), matrices.split(1000), strict=True)
    ]
    return torch.cat(parts)


def _places(x: Tensor, matrices: Tensor, centre: tuple[float, float]) -> Tensor:
    """Return the row and column that every output pixel reads, ``(2, n, height · width)``."""
    rows, columns = (
        torch.arange(size, dtype=torch.float64, device=x.device) - middle
        for size, middle in zip(x.shape[2:], centre, strict=True)
    )
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)
    # A last bit must not decide to which side a tie goes, so that all devices agree: it goes up.
    places = (matrices @ grid).transpose(0, 1) + 1e-9
    return places + torch.tensor(centre, dtype=torch.float64, device=x.device).view(2, 1, 1)


def _nearest(x: Tensor, places: Tensor, outside: Tensor) -> Tensor:
    return _look_up(x, (places + 0.5).floor().long(), outside).view_as(x)


def _bilinear(x: Tensor, places: Tensor, outside: Tensor) -> Tensor:
    low = places.floor()
    part = places - low
    total = torch.zeros(len(x), x.shape[1], places.shape[2], device=x.device)
    for step, weight in _corners(part):
        corner = low.long() + step.to(x.device)
        total += weight.float().unsqueeze(1) * _look_up(x, corner, outside)
    whole = total if x.is_floating_point() else total.round()
    return whole.to(x.dtype).view_as(x)


def _corners(part: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the four pixels around a place, as steps from the first, with their weights."""
    for down in (0, 1):
        for right in (0, 1):
            row = part[0] if down else 1 - part[0]
            column = part[1] if right else 1 - part[1]
            yield torch.tensor([down, right]).view(2, 1, 1), row * column


def _look_up(x: Tensor, places: Tensor, outside: Tensor) -> Tensor:
    """Read whole pixels, ``(n, channels, height · width)``; ``outside`` where there is none."""
    height, width = x.shape[2:]
    row, column = places
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = torch.where(inside, row * width + column, 0).unsqueeze(1)
    values = x.flatten(2).gather(2, index.expand(-1, x.shape[1], -1))
    return torch.where(inside.unsqueeze(1), values, outside)
