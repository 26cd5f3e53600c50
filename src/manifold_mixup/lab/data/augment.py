"""Random crops, flips and cutouts of a whole batch of images, on any device."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augment:
    """Random augmentation of training images; none by default.

    Attributes:
        flip: mirror half of the images.
        crop: pixels of black padding on every side, before a random window of the original size is
            cut out.
        cutout: side length of a black square whose centre is anywhere in the image (DeVries and
            Taylor, 2017; their square has the mean colour).
    """

    flip: bool = False
    crop: int = 0
    cutout: int = 0

    def __bool__(self) -> bool:
        return self.flip or self.crop > 0 or self.cutout > 0

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw the random numbers for ``count`` images, one row each, ``(count, 5)``.

        The columns are the shift down and right, whether to flip, and the centre of the square.
        All columns are always drawn, so that one option does not change the draws of another.
        """
        limits = (2 * self.crop + 1, 2 * self.crop + 1, 2, *size)
        columns = [
            torch.randint(limit, (count,), generator=generator, dtype=torch.int16)
            for limit in limits
        ]
        return torch.stack(columns, 1)

    def __call__(self, x: Tensor, draws: Tensor) -> Tensor:
        """Return the augmented images.

        Args:
            x: images, ``(n, channels, height, width)``, of any type. They are not modified.
            draws: rows of `draw`, on the device of ``x``.
        """
        down, right, flip, *centre = draws.long().unbind(1)
        if self.crop or self.flip:
            x = self._move(x, down, right, flip)
        return self._cut(x, *centre) if self.cutout else x

    def _move(self, x: Tensor, down: Tensor, right: Tensor, flip: Tensor) -> Tensor:
        """Crop and flip with one gather, whose indices differ for each image."""
        n, channels, height, width = x.shape
        padded = F.pad(x, (self.crop,) * 4)
        row = torch.arange(height, device=x.device)[:, None] + down[:, None, None]
        column = torch.arange(width, device=x.device).expand(n, 1, width)
        if self.flip:
            column = torch.where(flip[:, None, None] == 1, width - 1 - column, column)
        index = row * padded.shape[3] + column + right[:, None, None]
        index = index.view(n, 1, -1).expand(n, channels, height * width)
        return padded.flatten(2).gather(2, index).view(x.shape)

    def _cut(self, x: Tensor, centre_row: Tensor, centre_column: Tensor) -> Tensor:
        def covered(centre: Tensor, length: int) -> Tensor:
            first = centre[:, None] - self.cutout // 2
            index = torch.arange(length, device=x.device)
            return (index >= first) & (index < first + self.cutout)

        rows, columns = covered(centre_row, x.shape[2]), covered(centre_column, x.shape[3])
        return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0)
