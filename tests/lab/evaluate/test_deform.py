"""Deformations, compared with scipy and the authors' matrices, and obvious cases."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform

from manifold_mixup.lab.evaluate.deform import (
    DEFORMATIONS,
    Deformation,
    deform,
    draw_matrices,
    warp,
)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 13, 16, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def authors_matrix(kind: str, value: float) -> np.ndarray:
    """The 3x3 matrices of the authors' code, angles in radians."""
    sin, cos = math.sin(value), math.cos(value)
    rows = {
        "rotation": [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]],
        "shear": [[1, -sin, 0], [0, cos, 0], [0, 0, 1]],
        "zoom": [[value, 0, 0], [0, value, 0], [0, 0, 1]],
    }
    return np.array(rows[kind])


def about(matrix: np.ndarray, row: float, column: float) -> np.ndarray:
    """Return a matrix that acts about another point than the origin."""
    there = np.array([[1, 0, row], [0, 1, column], [0, 0, 1]])
    back = np.array([[1, 0, -row], [0, 1, -column], [0, 0, 1]])
    return there @ matrix @ back


def by_scipy(x: torch.Tensor, matrix: np.ndarray, **options) -> torch.Tensor:
    channels = [
        affine_transform(channel.numpy(), matrix[:2, :2], offset=matrix[:2, 2], **options)
        for channel in x
    ]
    return torch.from_numpy(np.stack(channels))


def read_places(matrix: np.ndarray, height: int, width: int) -> torch.Tensor:
    rows, columns = np.mgrid[:height, :width]
    places = matrix @ np.stack([rows.ravel(), columns.ravel(), np.ones(height * width)])
    return torch.from_numpy(places[:2].reshape(2, height, width))


def away_from_ties(places: torch.Tensor) -> torch.Tensor:
    return ((places - places.floor() - 0.5).abs() > 1e-6).all(0)


CASES = [
    *[("rotation", math.radians(angle)) for angle in (-80, -20, 7, 45, 63)],
    *[("shear", angle) for angle in (-3.0, -2.5, -1.0, 0.5, 2.0)],
    *[("zoom", size) for size in (0.2, 0.4, 0.6, 0.8, 1.2, 1.4, 1.6, 1.8)],
]


def matrices(matrix: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(matrix[:2, :2]).expand(count, 2, 2)


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_nearest_equals_scipy_about_the_middle(images, kind, value):
    matrix = authors_matrix(kind, value)
    ours = warp(images, matrices(matrix, 4))
    about_middle = about(matrix, 6, 7.5)
    clear = away_from_ties(read_places(about_middle, 13, 16))
    assert clear.double().mean() > 0.6
    for image, deformed in zip(images, ours, strict=True):
        theirs = by_scipy(image, about_middle, order=0, mode="grid-constant")
        assert torch.equal(deformed[:, clear], theirs[:, clear])


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_it_equals_the_authors_code_about_its_centre_and_within_its_edge(images, kind, value):
    # n / 2 + 0.5 is one pixel beyond the centre; mode "constant" ends at the centres of the
    # outer pixels.
    matrix = authors_matrix(kind, value)
    ours = warp(images, matrices(matrix, 4), centre=(13 / 2 + 0.5, 16 / 2 + 0.5))
    about_centre = about(matrix, 13 / 2 + 0.5, 16 / 2 + 0.5)
    places = read_places(about_centre, 13, 16)
    height, width = places.new_tensor([12.0, 15.0])
    rim = ((places < 0) & (places > -0.5)).any(0) | (places[0] > height) | (places[1] > width)
    far = (places[0] > height + 0.5) | (places[1] > width + 0.5) | (places < -0.5).any(0)
    same = away_from_ties(places) & (~rim | far)
    assert same.double().mean() > 0.6
    theirs = by_scipy(images[0], about_centre, order=0, mode="constant", cval=0.0)
    assert torch.equal(ours[0][:, same], theirs[:, same])


@pytest.mark.parametrize(("kind", "value"), CASES)
def test_bilinear_equals_scipy(images, kind, value):
    matrix = authors_matrix(kind, value)
    ours = warp(images, matrices(matrix, 4), interpolation="bilinear", fill=0.25)
    options = {"order": 1, "mode": "grid-constant", "cval": 0.25}
    theirs = by_scipy(images[1], about(matrix, 6, 7.5), **options)
    assert torch.allclose(ours[1], theirs, atol=1e-5)


def test_there_are_the_rows_of_table_9():
    assert [str(deformation) for deformation in DEFORMATIONS] == [
        *["rotation ±20.0°", "rotation ±40.0°", "rotation ±60.0°", "rotation ±80.0°"],
        *["shear ±28.6°", "shear ±57.3°", "shear ±114.6°", "shear ±143.2°", "shear ±171.9°"],
        *["zoom in 20 %", "zoom in 40 %", "zoom in 60 %", "zoom in 80 %"],
        *["zoom out 120 %", "zoom out 140 %", "zoom out 160 %", "zoom out 180 %"],
    ]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    "nothing", [Deformation("rotation", 0), Deformation("shear", 0), Deformation("zoom", 1)]
)
def test_nothing_leaves_images_as_they_are(images, nothing, interpolation):
    same = deform(images, nothing, generator=seeded(), interpolation=interpolation)
    assert torch.allclose(same, images, atol=1e-6)
    if interpolation == "nearest":
        assert torch.equal(same, images)


def test_zoom_in_crops_the_middle_and_enlarges_it():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    zoomed = deform(image, Deformation("zoom", 0.5), generator=seeded())
    middle = torch.tensor([[5.0, 6.0], [9.0, 10.0]])
    assert torch.equal(zoomed[0, 0], middle.repeat_interleave(2, 0).repeat_interleave(2, 1))


def test_zoom_out_shrinks_and_surrounds_with_black():
    image = torch.ones(1, 1, 8, 8)
    zoomed = deform(image, Deformation("zoom", 2.0), generator=seeded())
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(zoomed[0, 0], expected)


def test_a_quarter_turn_is_exact():
    image = torch.rand(1, 2, 9, 9, generator=seeded())
    quarter = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]], dtype=torch.float64)
    assert torch.equal(warp(image, quarter), image.rot90(-1, (2, 3)))


def test_every_image_draws_an_angle_of_its_own():
    angles = draw_matrices(Deformation("rotation", 40), 4000, generator=seeded())
    degrees = torch.atan2(angles[:, 1, 0], angles[:, 0, 0]).rad2deg()
    assert len(degrees.unique()) > 3990
    assert degrees.abs().max() <= 40
    assert degrees.mean().item() == pytest.approx(0, abs=1.2)
    assert degrees.std().item() == pytest.approx(40 / math.sqrt(3), rel=0.03)


def test_a_generator_repeats_its_images_and_the_global_one_is_left_alone(images):
    before = torch.get_rng_state()
    first, second, third = (deform(images, DEFORMATIONS[5], generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_is_deformed_the_same_in_a_large_batch(images):
    many = images.repeat(600, 1, 1, 1)
    turns = draw_matrices(DEFORMATIONS[0], len(many), generator=seeded())
    whole = warp(many, turns)
    assert torch.equal(whole[1500:1504], warp(many[1500:1504], turns[1500:1504]))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_bytes_stay_bytes(interpolation):
    x = torch.randint(256, (3, 3, 12, 12), dtype=torch.uint8, generator=seeded())
    deformed = deform(x, DEFORMATIONS[1], generator=seeded(), interpolation=interpolation)
    floats = deform(x.float(), DEFORMATIONS[1], generator=seeded(), interpolation=interpolation)
    assert deformed.dtype == torch.uint8
    assert torch.equal(deformed.float(), floats.round())


def test_what_lies_outside_has_the_fill_of_its_channel():
    image = torch.zeros(1, 3, 8, 8)
    zoomed = deform(image, DEFORMATIONS[-1], generator=seeded(), fill=(0.1, 0.2, 0.3))
    assert zoomed[0, :, 0, 0].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert zoomed[0, :, 4, 4].tolist() == [0, 0, 0]


def test_vectors_are_refused():
    with pytest.raises(ValueError, match=r"only images .* shape \(5, 40\)"):
        deform(torch.zeros(5, 40), DEFORMATIONS[0], generator=seeded())
