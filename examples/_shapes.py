"""The data of the segmentation example: circles, squares and triangles in noise."""

import torch
from torch.utils.data import TensorDataset


def shapes(count, seed, *, side=32):
    """Draw three shapes per image.

    Args:
        count: number of images.
        seed: seed of all random draws.
        side: side length of an image in pixels.

    Returns:
        Images ``(count, 1, side, side)``, and a label for each pixel ``(count, side, side)``:
        background (0), circle (1), square (2), triangle (3), or edge of a shape (255).
    """
    chance = torch.Generator().manual_seed(seed)
    down, right = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x, y = torch.zeros(count, side, side), torch.zeros(count, side, side, dtype=torch.long)
    for _ in range(3):
        size, light, top, left = torch.rand(4, count, 1, 1, generator=chance)
        size, dy, dx = 4 + 3 * size, down - 4 - 24 * top, (right - 4 - 24 * left).abs()
        square = 0.85 * size - torch.maximum(dx, dy.abs())
        triangle = torch.minimum(0.6 * size - dy, 0.5 * (dy + size) - 0.8 * dx)
        inside = torch.stack([size - dx.hypot(dy), square, triangle], dim=1)  # pixels to the edge
        kind = torch.randint(3, (count, 1, 1), generator=chance)
        inside = inside.take_along_dim(kind[:, None], dim=1)[:, 0]
        x = torch.where(inside > 0, 0.4 + 0.8 * light, x)
        y = torch.where(inside > 0.7, kind + 1, torch.where(inside > -0.7, 255, y))
    return TensorDataset((x + 0.4 * torch.randn(x.shape, generator=chance))[:, None], y)
