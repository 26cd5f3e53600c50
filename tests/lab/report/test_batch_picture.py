"""The picture of a mixed batch shows the values and shares that the plan mixes."""

import numpy as np
import pytest
import torch

from manifold_mixup import MixPlan, mix
from manifold_mixup.lab.report.plots import batch, batch_picture


@pytest.fixture
def drawn(monkeypatch):
    """Draw a batch, and return the panels as a grid of axes, and the title."""
    monkeypatch.setattr(batch, "picture", lambda figure: figure)

    def draw(*args, **options):
        figure = batch_picture(*args, **options)
        columns = figure.axes[0].get_subplotspec().get_gridspec().ncols
        return np.reshape(figure.axes, (-1, columns)), figure.get_suptitle()

    return draw


def images(axes):
    return np.stack([axis.images[0].get_array() for axis in axes])


PLAN = MixPlan("input", torch.tensor([0.25, 0.5, 1.0]), torch.tensor([1, 2, 0]))


def test_images_are_drawn_with_their_partners_mixtures_and_targets(drawn):
    x = torch.arange(3 * 3 * 4 * 5).reshape(3, 3, 4, 5) * 2.0 - 50
    panels, title = drawn(x, torch.tensor([2, 0, 0]), PLAN, classes=["cat", "dog", "ship"])
    assert panels.shape == (4, 3)
    scaled = ((x - x.min()) / (x.max() - x.min())).permute(0, 2, 3, 1)
    np.testing.assert_allclose(images(panels[0]), scaled)
    np.testing.assert_allclose(images(panels[1]), scaled[[1, 2, 0]])
    np.testing.assert_allclose(images(panels[2]), mix(scaled, PLAN), rtol=1e-5)
    labels = [axes.get_xlabel() for axes in panels[3]]
    assert labels == ["25% ship\n75% cat", "50% cat\n50% cat", "100% cat\n0% ship"]
    assert [bar.get_width() for bar in panels[3, 0].patches] == [0.25, 0.75]
    assert title == "mixed: the input, a λ for each example"


def test_a_mixture_of_hidden_states_is_named_but_not_drawn(drawn):
    x = torch.randn(3, 1, 8)
    plan = MixPlan("layer1", 0.7, PLAN.perm)
    panels, title = drawn(x, torch.tensor([0, 1, 1]), plan, most=2)
    assert panels.shape == (3, 2)
    assert title == "mixed: the output of 'layer1', λ = 0.70"
    for axes, example in zip(panels[1], x[plan.perm], strict=False):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), example[0])
    assert panels[2, 0].get_xlabel() == "70% class 0\n30% class 1"


def test_bytes_of_one_value_are_drawn(drawn):
    panels, _ = drawn(torch.full((3, 1, 4, 4), 7, dtype=torch.uint8), torch.zeros(3).long(), PLAN)
    assert np.all(images(panels[2]) == 0)


def test_a_picture_is_pixels_and_vectors():
    picture = batch_picture(torch.rand(3, 6), torch.tensor([0, 1, 2]), PLAN)
    assert picture.png.startswith(b"\x89PNG")
    assert b"<svg" in picture.svg
    assert picture._repr_png_() == picture.png  # for notebooks


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.rand(3, 2, 4, 4), torch.zeros(3).long(), {}, r"has shape \(3, 2, 4, 4\)"),
        (torch.rand(3, 4, 4), torch.zeros(3).long(), {}, r"or \(batch, 1, length\)"),
        (torch.rand(3), torch.zeros(3).long(), {}, "x must be images"),
        (torch.rand(3, 4), torch.zeros(3), {}, "y must hold 3 class indices"),
        (torch.rand(3, 4), torch.zeros(3, 2).long(), {}, "y must hold 3 class indices"),
        (torch.rand(4, 4), torch.zeros(4).long(), {}, "pairs 3 examples, but x has 4"),
        (torch.rand(3, 4), torch.tensor([0, 1, 2]), {"classes": ["a", "b"]}, "classes has 2 names"),
        (torch.rand(3, 4), torch.tensor([0, -1, 1]), {"classes": ["a", "b"]}, "y holds -1 to 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        batch_picture(x, y, PLAN, **options)
