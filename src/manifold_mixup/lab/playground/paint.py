"""A classifier of the plane as a small picture, painted several times per second.

Pillow takes a millisecond or two where matplotlib takes a hundred. The colours are those of the
other pictures.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from manifold_mixup.lab.evaluate.plane import SURE, Plane

SIDE = 320
"""Width and height of a picture in pixels."""

FIRST, SECOND = (230, 159, 0), (0, 114, 178)
_WHITE, _LINE = (255, 255, 255), (34, 34, 34)
_PALE = 0.75  # opacity of the background, so that the points stand out
_RADIUS = 3


def paint(plane: Plane, points: Tensor, y: Tensor) -> bytes:
    """Paint the predictions of a classifier, its boundary, and points of both classes.

    Colours show the class and fade to white where both classes are equally likely. The solid line
    is the boundary; dotted lines enclose confidence above 0.95.

    Args:
        plane: the predictions over a grid.
        points: points in the same coordinates, ``(n, 2)``.
        y: their labels, 0 or 1. The first class are squares, the second are discs.

    Returns:
        A PNG with a width and height of `SIDE` pixels.
    """
    second = _smooth(plane)
    image = Image.fromarray(_field(second))
    draw = ImageDraw.Draw(image)
    at = (points.cpu() - plane.low) / (plane.high - plane.low) * SIDE
    for (across, up), label in zip(at.tolist(), y.tolist(), strict=True):
        box = (across - _RADIUS, SIDE - up - _RADIUS, across + _RADIUS, SIDE - up + _RADIUS)
        mark, fill = (draw.ellipse, SECOND) if label else (draw.rectangle, FIRST)
        mark(box, fill=fill, outline=_WHITE)
    file = io.BytesIO()
    image.save(file, format="png", compress_level=1)
    return file.getvalue()


def _smooth(plane: Plane) -> NDArray[np.float32]:
    """Return the probability of the second class for every pixel, rows from the top."""
    side = round(len(plane.points) ** 0.5)
    coarse = plane.probabilities[:, 1].view(side, side).T.flip(0).float().numpy()
    fine = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(fine)


def _field(second: NDArray[np.float32]) -> NDArray[np.uint8]:
    strength = _PALE * np.abs(2 * second - 1)[..., None]
    pure = np.where(second[..., None] > 0.5, SECOND, FIRST)
    pixels = (1 - strength) * 255 + strength * pure
    rows, columns = np.indices(second.shape)
    dots = (rows + columns) // 2 % 2 == 0
    for level in (1 - SURE, SURE):
        pixels[_edge(second > level) & dots] = _LINE
    pixels[_edge(second > 0.5)] = _LINE
    return pixels.astype(np.uint8)


def _edge(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels with a neighbour to the right or below on the other side."""
    edge = np.zeros_like(inside)
    edge[:, :-1] |= inside[:, :-1] != inside[:, 1:]
    edge[:-1] |= inside[:-1] != inside[1:]
    return edge
