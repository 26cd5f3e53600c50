"""Classifiers of the plane: a linear one in closed form, and one with a layer of two units."""

import pytest
import torch
from torch import nn

from manifold_mixup.lab.data import spirals
from manifold_mixup.lab.evaluate import evaluate
from manifold_mixup.lab.evaluate.plane import hidden_plane, input_plane


class Ridge(nn.Module):
    """A classifier with the logits 0 and ``scale · (first coordinate)``."""

    def __init__(self, scale):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))

    def forward(self, x):
        return torch.stack([torch.zeros(len(x)), self.scale * x[:, 0]], 1)


CORNERS = torch.tensor([[-1.0, -2.0], [1.0, 2.0], [0.0, 0.0]])


def test_the_plane_is_the_range_of_the_inputs_and_a_tenth_more():
    plane = input_plane(Ridge(1), CORNERS, side=5)
    assert plane.low.tolist() == pytest.approx([-1.2, -2.4])
    assert plane.high.tolist() == pytest.approx([1.2, 2.4])
    assert plane.points.view(5, 5, 2)[3, 1].tolist() == pytest.approx([0.6, -1.2])
    second = plane.probabilities[:, 1]
    assert torch.allclose(second, plane.points[:, 0].double().sigmoid())


def test_the_confident_share_of_a_linear_classifier():
    """It is confident if |scale · x| > log(0.95 / 0.05)."""
    scale = 10.0
    edge = torch.tensor(0.95 / 0.05).log().item() / scale
    share = 100 * (1 - edge / 1.2)
    assert input_plane(Ridge(scale), CORNERS, side=400).confident == pytest.approx(share, abs=0.5)
    assert input_plane(Ridge(0), CORNERS).confident == 0


def test_behind_a_layer_the_rest_of_the_model_decides():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)).train()
        x = torch.randn(50, 2)
    plane = hidden_plane(model, x, "0", side=40)  # more points than a chunk
    torch.testing.assert_close(
        plane.probabilities, model[1:](plane.points).double().softmax(1).detach()
    )
    states = model[0](x).detach()
    assert (plane.low < states.min(0).values).all()
    assert (plane.high > states.max(0).values).all()
    assert model.training
    assert not model[0]._forward_hooks


def test_a_layer_that_cannot_be_drawn():
    model = nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2))
    with pytest.raises(ValueError, match=r"layer '0' has 5 units\. Expected two\."):
        hidden_plane(model, torch.randn(9, 2), "0")
    with pytest.raises(ValueError, match="has no layer 'a'"):
        hidden_plane(model, torch.randn(9, 2), "a")


def test_a_part_of_the_battery_for_points(task):
    data = spirals.load(per_class=20, held_out=20)
    model = nn.Sequential(nn.Linear(2, 2))
    (row,) = evaluate(model, data, battery=["plane"])["plane"]
    assert row == {"name": "inputs", "confident": input_plane(model, data.x).confident}
    with pytest.raises(ValueError, match=r"only points in the plane can be drawn, but .* \(6,\)"):
        evaluate(nn.Linear(6, 3), task, battery=["plane"])
