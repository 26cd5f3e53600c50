"""Rendered ones and sevens with known factors of variation (paper, appendix A, Figure 4)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from manifold_mixup.lab.data.arrays import PIXELS, Data

SIDE = 64
TRAIN, TEST = 4000, 1000
NAMES = ("angle", "xpos", "ypos", "xbot", "ychange", "width", "xlen")
"""Columns of a factor table: the angle in degrees, the others in pixels of a canvas of 256."""

_RANGES = {
    "xpos": (30, 150),
    "ypos": (20, 50),
    "xbot": (-30, 5),
    "ychange": (-10, 10),
    "width": (15, 35),
}
_ONE, _SEVEN = (0.0, 20.0), (40.0, 100.0)


@dataclass(frozen=True)
class Task:
    """The ranges of angles of the two halves of the training set and test set, and the label."""

    train: tuple[tuple[float, float], tuple[float, float]]
    test: tuple[tuple[float, float], tuple[float, float]]
    label: str


_LEANING = ((-70.0, -50.0), (50.0, 80.0))
TASKS = {
    "a": Task(_LEANING, ((-30, -10), (10, 30)), "angle"),
    "b": Task(_LEANING, ((-30, -20), (-10, 30)), "angle"),
    "c": Task(_LEANING, ((-30, 0), (0, 30)), "digit"),
}


def load(task: str, *, mixed: bool = False, seed: int = 0) -> Data:
    """Render task A or B (which way does it lean?) or C (is it a one or a seven?).

    The test set has other angles than the training set.

    Args:
        task: ``"a"``, ``"b"`` or ``"c"``.
        mixed: render every training image from the mixed factors of two draws, with uniform λ and
            mixed labels. This is mixing at a hypothetical layer that has the true factors
            (Table 8).
        seed: seed of the factors.
    """
    x, y = (_mixed if mixed else draw)(task, TRAIN, seed=seed)
    x_test, y_test = draw(task, TEST, seed=seed + 1, train=False)
    name = f"factors{' mixed' if mixed else ''}, task {task.upper()}"
    return Data(name, render(x), y, render(x_test), y_test, classes=2, **PIXELS)


def draw(task: str, count: int, *, seed: int, train: bool = True) -> tuple[Tensor, Tensor]:
    """Draw factors ``(count, 7)``, with the columns `NAMES`, and labels ``(count,)``."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: Tensor | float, high: Tensor | float) -> Tensor:
        return low + (torch.as_tensor(high) - low) * torch.rand(count, generator=generator)

    side = torch.randint(2, (count,), generator=generator)
    seven = torch.randint(2, (count,), generator=generator)
    angles = TASKS[task].train if train else TASKS[task].test
    bounds = torch.tensor(angles, dtype=torch.float32)[side]
    lengths = torch.tensor([_ONE, _SEVEN])[seven]
    columns = {name: uniform(*_RANGES[name]) for name in _RANGES}
    columns["angle"] = uniform(bounds[:, 0], bounds[:, 1])
    columns["xlen"] = uniform(lengths[:, 0], lengths[:, 1])
    factors = torch.stack([columns[name] for name in NAMES], 1)
    return factors, side if TASKS[task].label == "angle" else seven


def _mixed(task: str, count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Draw mixed factors ``(count, 7)`` and soft labels ``(count, 2)``."""
    factors, y = draw(task, 2 * count, seed=seed)
    lam = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed + 2))
    mixed = [lam * part[:count] + (1 - lam) * part[count:] for part in (factors, F.one_hot(y, 2))]
    return mixed[0], mixed[1]


def render(factors: Tensor) -> Tensor:
    """Render factors ``(n, 7)`` as grey images ``(n, 1, 64, 64)``, uint8."""
    return torch.from_numpy(np.stack([_image(*row) for row in factors.tolist()]))[:, None]


def _image(
    angle: float,
    xpos: float,
    ypos: float,
    xbot: float,
    ychange: float,
    width: float,
    xlen: float,
) -> np.ndarray:
    """Draw a stem of 200 pixels with a bar at its top, rotated about the centre of the canvas."""
    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (256, 256))
    pen, top = ImageDraw.Draw(canvas), (xpos + 50, ypos)
    pen.line((*top, top[0] + xbot, ypos + 200), fill="red", width=round(width))
    pen.line((*top, top[0] - xlen, ypos + ychange), fill="red", width=round(width))
    canvas = canvas.rotate(angle)
    canvas.thumbnail((SIDE, SIDE))
    return np.asarray(canvas.convert("L"))
