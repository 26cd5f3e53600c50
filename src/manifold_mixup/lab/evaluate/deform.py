"""The 17 deformations of the test set in Tables 4 and 9 of the paper.

Every output pixel reads the input at ``matrix @ (pixel - centre) + centre``, in (row, column).
Rotations and shears draw an angle for each image; zooms are the same for all. The matrices are
those of the authors' code. Our choices where paper and code differ or are silent:

- *Fill*: black, 0 in pixels, as in the paper. The code deforms standardised images and fills with
  0 there, which is the mean colour; ``fill=mean`` does the same.
- *Interpolation*: nearest, as in the code (scipy's ``order=0``); the paper does not state it.
- *Centre*: the centre of the image, (n - 1) / 2 in each direction. The code's n / 2 + 0.5 is one
  pixel further down and right, which shifts its zooms by a fraction of a pixel; `warp` supports it.
- *Edge*: a pixel is a square, and all of it can be read. ``scipy``'s mode ``"constant"`` treats the
  outer half of border pixels as outside; its mode ``"grid-constant"`` agrees with ours.
- *Shear*: the matrix ``[[1, -sin s], [0, cos s]]`` mirrors columns for angles above 90°, such as
  the paper's last three. Near 180° it is hardly a shear, so that accuracy rises again.
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
        kind: the kind.
        amount: for a rotation or shear, the maximal angle in degrees, drawn from ``-amount`` to
            ``amount``. For a zoom, the size of the region that is read, relative to the image: 0.2
            enlarges the middle fifth, 1.8 shrinks the image and adds a border.
    """

    kind: Literal["rotation", "shear", "zoom"]
    amount: float

    def __str__(self) -> str:
        """Return its name in Table 9."""
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
    """Deform every image of a batch, each by its own angle.

    Args:
        x: images, ``(n, channels, height, width)``, uint8 or floating point, on any device.
        deformation: the deformation; `DEFORMATIONS` has the paper's.
        generator: a CPU generator for the angles, one number per image; zooms draw none.
        interpolation: how values between pixels are computed.
        fill: the value outside of the image, in the units of ``x``; one for all or one per channel.

    Returns:
        The images, with the shape, dtype and device of ``x``; uint8 values are rounded.

    Raises:
        ValueError: ``x`` are not images.
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
        matrices: one per image, ``(n, 2, 2)``, in (row, column).
        interpolation: as for `deform`.
        fill: as for `deform`.
        centre: the row and column of the fixed point; ``None`` for the centre of the image.
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
    # Ties are rounded up on all devices, so that they do not depend on the last bit.
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
    """Yield the four pixels around a point, as steps from the first one, with their weights."""
    for down in (0, 1):
        for right in (0, 1):
            row = part[0] if down else 1 - part[0]
            column = part[1] if right else 1 - part[1]
            yield torch.tensor([down, right]).view(2, 1, 1), row * column


def _look_up(x: Tensor, places: Tensor, outside: Tensor) -> Tensor:
    """Read pixels by integer index, ``(n, channels, height · width)``; ``outside`` elsewhere."""
    height, width = x.shape[2:]
    row, column = places
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    index = torch.where(inside, row * width + column, 0).unsqueeze(1)
    values = x.flatten(2).gather(2, index.expand(-1, x.shape[1], -1))
    return torch.where(inside.unsqueeze(1), values, outside)
