"""Inputs off the data: where they are, and the confidence there."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from manifold_mixup.lab.data import as_input, spirals
from manifold_mixup.lab.evaluate import evaluate
from manifold_mixup.lab.evaluate.off_data import greatest, off_data
from manifold_mixup.lab.models.fresh import fresh_model


def draw(data, count=200, seed=0):
    return off_data(data, generator=torch.Generator().manual_seed(seed), count=count)


def box(data):
    x = as_input(data.x).flatten(1).double().numpy()
    low, high = x.min(0), x.max(0)
    return low - 0.1 * (high - low), high + 0.1 * (high - low)


def nearest(x, known):
    """Return the distance of each row to the nearest of others, one pair at a time."""
    return np.array([min(np.linalg.norm(one - other) for other in known) for one in x])


@pytest.mark.parametrize("kind", ["vectors", "points"])
def test_they_are_in_the_box_and_farther_than_test_inputs(task, kind):
    data = task if kind == "vectors" else spirals.load(per_class=60, held_out=50)
    drawn = draw(data, 60).double().numpy()
    low, high = box(data)
    assert (drawn >= low - 1e-5).all()
    assert (drawn <= high + 1e-5).all()
    width = high - low
    known, test = (x.double().numpy() / width for x in (data.x, data.x_test))
    limit = np.quantile(nearest(test, known), 0.99)
    assert len(drawn) == 60
    assert nearest(drawn / width, known).min() > limit - 1e-5


def test_they_are_spread_over_the_whole_box(task):
    drawn = draw(task, 2000).double().numpy()
    low, high = box(task)
    reached = (drawn - low) / (high - low)
    assert (reached.min(0) < 0.02).all()
    assert (reached.max(0) > 0.98).all()


def test_the_same_generator_draws_the_same(task):
    assert draw(task).equal(draw(task))
    assert not draw(task).equal(draw(task, seed=1))


def test_pixels_stay_within_their_bounds_and_constant_ones_as_they_are(task):
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (60, 1, 1, 1), generator=generator, dtype=torch.uint8)
    x = grey.repeat(1, 3, 4, 4)  # each image is of one grey, unlike noise
    x[:, :, 0] = 51
    data = replace(task, x=x[:40], x_test=x[40:], bounds=(0.0, 1.0))
    drawn = draw(data)
    assert drawn.shape == (200, 3, 4, 4)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    torch.testing.assert_close(drawn[:, :, 0], torch.full((200, 3, 4), 0.2))


def test_data_that_fill_their_box_leave_none():
    grid = torch.cartesian_prod(torch.linspace(0, 1, 12), torch.linspace(0, 1, 12))
    far = torch.tensor([[3.0, 3.0]])  # a test set far from the training set
    y, y_test = torch.zeros(144, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    data = replace(spirals.load(), x=grid, y=y, x_test=far, y_test=y_test)
    drawn = draw(data)
    assert drawn.shape == (0, 2)
    assert math.isnan(greatest(torch.zeros(0, 2)))
    off, test = evaluate(nn.Linear(2, 2), data, battery=["confidence"])["confidence"]
    assert off["inputs"] == 0
    assert math.isnan(off["greatest"])
    assert off["note"].startswith("no confidence off the data: no input was found in the box")
    assert "note" not in test


def test_the_mean_of_the_greatest_softmax():
    assert greatest(torch.zeros(5, 4)) == 0.25
    two = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(7.0)]])
    assert greatest(two) == pytest.approx((3 / 4 + 7 / 8) / 2)


def test_a_part_of_the_battery(task, plain):
    model = fresh_model(replace(plain, width=8), task)
    off, test = evaluate(model, task, battery=["confidence"])["confidence"]
    assert (off["name"], off["inputs"]) == ("off the data", 1000)
    assert (test["name"], test["inputs"]) == ("test set", len(task.x_test))
    with torch.no_grad():
        share = model.eval()(task.x_test).softmax(1).max(1).values
        far = model(draw(task, 1000)).softmax(1).max(1).values
    assert test["greatest"] == pytest.approx(share.mean().item(), abs=1e-6)
    assert off["greatest"] == pytest.approx(far.mean().item(), abs=1e-6)


def test_a_model_that_is_sure_everywhere(task):
    class Sure(nn.Module):
        def forward(self, x):
            return torch.tensor([50.0, 0.0, 0.0]).expand(len(x), 3)

    off, _ = evaluate(Sure(), task, battery=["confidence"])["confidence"]
    assert (off["greatest"], off["sure"]) == (1, 100)
