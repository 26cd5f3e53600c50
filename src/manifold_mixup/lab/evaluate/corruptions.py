"""Those corruptions of CIFAR-10-C for which torchvision and Pillow have the operations.

Kinds and severities are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness
to Common Corruptions and Perturbations", 2019, for images of 32 x 32. The pixels differ from those
of the published files: noise is drawn anew, contrast shrinks towards the mean grey of an image
instead of the mean of each channel, and libraries round differently.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

Kind = Literal["gaussian noise", "gaussian blur", "contrast", "pixelate", "jpeg"]

AMOUNTS: dict[Kind, tuple[float, ...]] = {
    "gaussian noise": (0.04, 0.06, 0.08, 0.09, 0.10),
    "gaussian blur": (0.4, 0.6, 0.7, 0.8, 1.0),
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),
    "pixelate": (0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg": (80, 65, 58, 50, 40),
}
"""The amount for each severity: the standard deviation of the noise (1 is white), the standard
deviation of the blur in pixels, the remaining contrast, the remaining resolution, the JPEG quality.
"""


@dataclass(frozen=True)
class Corruption:
    """A kind of corruption with a severity from 1 to 5."""

    kind: Kind
    severity: int

    @property
    def amount(self) -> float:
        """Its entry in `AMOUNTS`."""
        return AMOUNTS[self.kind][self.severity - 1]

    def __str__(self) -> str:
        """Return its kind and severity."""
        return f"{self.kind} {self.severity}"


CORRUPTIONS = tuple(Corruption(kind, severity) for kind in AMOUNTS for severity in range(1, 6))


def corrupt(x: Tensor, corruption: Corruption, *, generator: torch.Generator) -> Tensor:
    """Corrupt every image of a batch.

    Args:
        x: images, ``(n, channels, height, width)`` with one or three channels, uint8 or floating
            point from 0 to 1.
        corruption: the corruption; `CORRUPTIONS` has all.
        generator: a CPU generator for the noise; the other kinds are deterministic.

    Returns:
        The images, with the shape, dtype and device of ``x``; uint8 values are rounded.

    Raises:
        ValueError: ``x`` are not images of one or three channels.
    """
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            f"only images of one or three channels can be corrupted, (n, channels, height, width), "
            f"but x has shape {tuple(x.shape)}."
        )
    do = _KINDS[corruption.kind]
    parts = (do(_as_shares(part), corruption.amount, generator) for part in x.split(1000))
    return torch.cat([_like(x, part) for part in parts])


def _as_shares(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.float() / 255


def _like(x: Tensor, shares: Tensor) -> Tensor:
    shares = shares.clamp(0, 1)
    return shares if x.is_floating_point() else (255 * shares).round().to(x.dtype)


def _noise(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    return x + amount * torch.randn(x.shape, generator=generator).to(x)


def _blur(x: Tensor, amount: float, _: torch.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional  # loads the compiler of PyTorch

    side = 2 * math.ceil(4 * amount) + 1  # beyond four standard deviations, weights are negligible
    blurred: Tensor = functional.gaussian_blur(x, [side, side], [amount, amount])
    return blurred


def _contrast(x: Tensor, amount: float, _: torch.Generator) -> Tensor:
    from torchvision.transforms.v2 import functional

    faded: Tensor = functional.adjust_contrast(x, amount)
    return faded


def _pixelate(x: Tensor, amount: float, _: torch.Generator) -> Tensor:
    size = [int(amount * side) for side in x.shape[2:]]
    return interpolate(interpolate(x, size, mode="area"), x.shape[2:], mode="nearest")


def _jpeg(x: Tensor, amount: float, _: torch.Generator) -> Tensor:
    pictures = (255 * x).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    packed = np.stack([_through_jpeg(picture, int(amount)) for picture in pictures])
    return (torch.from_numpy(packed).permute(0, 3, 1, 2).float() / 255).to(x)


def _through_jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode and decode an image, ``(height, width, channels)``, as JPEG."""
    file = io.BytesIO()
    Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(
        file, "jpeg", quality=quality
    )
    return np.array(Image.open(file)).reshape(picture.shape)


_KINDS: dict[Kind, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "gaussian noise": _noise,
    "gaussian blur": _blur,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
