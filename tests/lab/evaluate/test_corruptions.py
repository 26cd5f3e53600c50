"""Corruptions, compared with closed forms and other libraries."""

import math

import pytest
import torch
from scipy.ndimage import gaussian_filter

from manifold_mixup.lab.evaluate import CORRUPTIONS, Corruption, corrupt
from manifold_mixup.lab.evaluate.corruptions import AMOUNTS

KINDS = tuple(AMOUNTS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    """Smooth images, uint8."""
    coarse = torch.rand(6, 3, 4, 4, generator=seeded())
    smooth = torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")
    return (255 * smooth).round().to(torch.uint8)


def done(x: torch.Tensor, kind: str, severity: int = 5) -> torch.Tensor:
    return corrupt(x, Corruption(kind, severity), generator=seeded(1))


def test_noise_has_the_deviation_that_is_stated_and_is_drawn_by_the_generator():
    grey = torch.full((50, 3, 32, 32), 0.5)
    for severity, sigma in enumerate(AMOUNTS["gaussian noise"], start=1):
        noise = done(grey, "gaussian noise", severity) - grey
        assert noise.std().item() == pytest.approx(sigma, rel=0.02)
        assert abs(noise.mean().item()) < 0.001
    assert torch.equal(done(grey, "gaussian noise"), done(grey, "gaussian noise"))


@pytest.mark.parametrize("severity", range(1, 6))
def test_blur_is_that_of_scipy(images, severity):
    sigma = AMOUNTS["gaussian blur"][severity - 1]
    x = images.double() / 255
    radius = math.ceil(4 * sigma)
    theirs = gaussian_filter(x.numpy(), sigma, mode="mirror", axes=(2, 3), radius=radius)
    torch.testing.assert_close(done(x, "gaussian blur", severity), torch.from_numpy(theirs))


@pytest.mark.parametrize("severity", range(1, 6))
def test_contrast_shrinks_what_differs_from_the_mean(severity):
    grey = torch.rand(4, 1, 8, 8, generator=seeded())
    mean, share = grey.mean((1, 2, 3), keepdim=True), AMOUNTS["contrast"][severity - 1]
    torch.testing.assert_close(done(grey, "contrast", severity), mean + share * (grey - mean))


def test_pixelating_keeps_fewer_different_pixels_and_the_mean(images):
    x = images.double() / 255
    coarse = done(x, "pixelate")
    assert len(coarse[0, 0].unique()) <= int(0.65 * 32) ** 2 < len(x[0, 0].flatten())
    torch.testing.assert_close(coarse.mean((2, 3)), x.mean((2, 3)), rtol=0.02, atol=0)


def test_jpeg_keeps_blocks_of_one_grey_and_nothing_finer():
    """In a block of 8 x 8 pixels, the mean is kept best and the finest pattern is lost first."""
    grey = torch.linspace(0, 1, 6).view(6, 1, 1, 1).expand(6, 3, 32, 32)
    torch.testing.assert_close(done(grey, "jpeg"), grey, atol=2 / 255, rtol=0)
    board = 0.5 + 0.02 * (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).mul(2).sub(1)
    lost = done(board.expand(1, 3, 32, 32), "jpeg")
    assert lost.std() < 0.2 * board.std()


@pytest.mark.parametrize("kind", KINDS)
def test_a_greater_severity_is_farther_from_the_picture(images, kind):
    x = images / 255
    apart = [(done(x, kind, severity) - x).square().mean().item() for severity in range(1, 6)]
    # With 30 of 32 pixels per side, nearly every pixel is still read, but at a wrong position.
    assert kind == "pixelate" or apart == sorted(apart)
    assert apart[-1] > 1.2 * apart[0] > 0


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=str)
def test_shape_and_type_stay_and_bytes_are_rounded_shares(images, corruption):
    as_bytes = corrupt(images, corruption, generator=seeded(1))
    as_shares = corrupt(images.float() / 255, corruption, generator=seeded(1))
    assert (as_bytes.dtype, as_bytes.shape) == (torch.uint8, images.shape)
    assert (as_shares.dtype, as_shares.shape) == (torch.float32, images.shape)
    assert as_shares.min() >= 0
    assert as_shares.max() <= 1
    assert torch.equal((255 * as_shares).round().to(torch.uint8), as_bytes)
    single = corrupt(images[:, :1], corruption, generator=seeded(1))
    assert single.shape == (6, 1, 32, 32)


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 8, 8), (3, 8, 8)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"images of one or three channels.*has shape"):
        done(torch.rand(shape), "contrast")
