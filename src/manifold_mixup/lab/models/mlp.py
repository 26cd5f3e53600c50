"""A plain multilayer perceptron."""

from collections import OrderedDict

from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.standardize import Standardize


def mlp(data: Data, *, width: int, depth: int = 3) -> nn.Module:
    """Build ``hidden1 … hidden<depth>`` of ``width`` units with ReLU, then ``head``.

    Args:
        data: what it is to classify, for shape, scale and classes.
        width: units in each hidden layer.
        depth: how many hidden layers.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["standardize"] = Standardize(data)
    layers["flatten"] = nn.Flatten()
    units = data.x[0].numel()
    for k in range(1, depth + 1):
        layers[f"hidden{k}"] = nn.Sequential(nn.Linear(units, width), nn.ReLU())
        units = width
    layers["head"] = nn.Linear(units, data.classes)
    return nn.Sequential(layers)
