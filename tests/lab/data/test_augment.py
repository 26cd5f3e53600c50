"""Augmentation of a batch, compared with torchvision's of single images, and its distribution."""

import pytest
import torch
from scipy import stats
from torchvision.transforms.v2 import functional as tv

from manifold_mixup.lab.data.augment import Augment

SIZE = (11, 9)


def images(count: int, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, *SIZE), generator=generator)
    return pixels.to(dtype) if dtype == torch.uint8 else (pixels / 255).to(dtype)


def drawn(augment: Augment, count: int, seed: int = 0) -> torch.Tensor:
    return augment.draw(count, SIZE, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", [0, 2, 4])
def test_every_image_is_what_torchvision_makes_of_it(dtype, flip, crop):
    augment, x = Augment(flip=flip, crop=crop), images(40, dtype)
    before, draws = x.clone(), drawn(augment, 40)
    augmented = augment(x, draws)
    assert torch.equal(x, before)
    for image, result, (down, right, mirrored, *_) in zip(
        x, augmented, draws.tolist(), strict=True
    ):
        expected = tv.pad(image, [crop])
        expected = tv.crop(expected, down, right, *SIZE)
        if flip and mirrored:
            expected = tv.horizontal_flip(expected)
        assert torch.equal(result, expected)


def test_the_draws_are_uniform_and_independent():
    draws = drawn(Augment(flip=True, crop=2, cutout=3), 20_000)
    for column, limit in enumerate((5, 5, 2, *SIZE)):
        counts = draws[:, column].long().bincount(minlength=limit)
        assert len(counts) == limit
        assert stats.chisquare(counts.numpy()).pvalue > 1e-6  # the minimum of six tests is 0.0014
    both = (draws[:, 0] * 5 + draws[:, 1]).long().bincount(minlength=25)
    assert stats.chisquare(both.numpy()).pvalue > 1e-6


def test_one_option_does_not_change_what_another_draws():
    assert torch.equal(drawn(Augment(flip=True), 50)[:, 2], drawn(Augment(cutout=4), 50)[:, 2])


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_blanks_a_square_that_may_hang_over_the_edge(side):
    augment, x = Augment(cutout=side), images(30).clamp_min(1)
    draws = drawn(augment, 30)
    for image, result, (*_, row, column) in zip(x, augment(x, draws), draws.tolist(), strict=True):
        expected = image.clone()
        top, left = row - side // 2, column - side // 2
        expected[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
        assert torch.equal(result, expected)


def test_nothing_is_asked_for_by_default():
    assert not Augment()
    x = images(3)
    assert Augment()(x, drawn(Augment(), 3)) is x


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_makes_no_difference():
    augment, x = Augment(flip=True, crop=4, cutout=5), images(64)
    draws = drawn(augment, 64)
    assert torch.equal(augment(x.cuda(), draws.cuda()).cpu(), augment(x, draws))
