"""A plain multilayer perceptron."""

from collections import OrderedDict

from torch import Tensor, nn

from manifold_mixup.lab.models.standardize import Standardize


def mlp(x: Tensor, *, classes: int, width: int, depth: int = 3) -> nn.Module:
    """Build ``hidden1 … hidden<depth>`` of ``width`` units with ReLU, then ``head``.

    Args:
        x: the training inputs, for their shape and scale.
        classes: how many outputs.
        width: units in each hidden layer.
        depth: how many hidden layers.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["standardize"] = Standardize(x)
    layers["flatten"] = nn.Flatten()
    units = x[0].numel()
    for k in range(1, depth + 1):
        layers[f"hidden{k}"] = nn.Sequential(nn.Linear(units, width), nn.ReLU())
        units = width
    layers["head"] = nn.Linear(units, classes)
    return nn.Sequential(layers)
