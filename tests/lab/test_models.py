"""The models fit their data, and mixing fits the models."""

import pytest
import torch

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes import HIDDEN


def task(*shape: int) -> Data:
    x = 5 + 2 * torch.randn(12, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.arange(12) % 3
    return Data("task", x, y, x, y, classes=3, eps=0.1, space="units")


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize("shape", [(40,), (1, 28, 28), (3, 9, 7)])
def test_every_model_takes_every_shape(name, shape):
    model = models.build(name, task(*shape), width=8)
    assert model(torch.randn(4, *shape)).shape == (4, 3)


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize("shape", [(40,), (1, 28, 28)])
def test_every_chosen_layer_is_proven(name, shape):
    data = task(*shape)
    mixup = ManifoldMixup(models.build(name, data, width=8), HIDDEN[name])
    mixup.assert_verified(data.x[:4])


def test_the_model_standardises_so_that_attacks_are_in_data_units():
    data = task(40)
    first = models.build("mlp", data, width=8)[0](data.x)
    assert first.mean().item() == pytest.approx(0, abs=1e-5)
    assert first.std().item() == pytest.approx(1, abs=1e-5)


def test_constant_inputs_do_not_divide_by_zero():
    x, y = torch.ones(4, 5), torch.tensor([0, 1, 0, 1])
    data = Data("flat", x, y, x, y, classes=2, eps=0.1, space="units")
    assert models.build("mlp", data, width=4)(x).isfinite().all()


def test_an_unknown_model_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"no model 'MPL'\. Did you mean 'mlp'\? Known: mlp, cnn"):
        models.build("MPL", task(40), width=8)
