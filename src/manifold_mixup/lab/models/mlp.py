"""Plain multilayer perceptrons, with or without a bottleneck."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.standardize import Standardize


@dataclass(frozen=True)
class Shape:
    """The layers of a perceptron.

    Attributes:
        before: number of hidden layers before the bottleneck, or of all without one.
        bottleneck: units of the bottleneck; 0 for none.
        after: number of hidden layers after the bottleneck.
        width: units of a hidden layer.
        activation: activation of the hidden layers; the bottleneck is linear.
    """

    before: int
    bottleneck: int = 0
    after: int = 0
    width: int = 256
    activation: Literal["relu", "leaky_relu"] = "relu"


SHAPES = {
    "mlp": Shape(3),
    # Nine layers with a middle one of two units (paper, Figures 1 and 2); the widths are unknown.
    "spiral-mlp": Shape(4, bottleneck=2, after=3, width=128),
    # 784-1024-1024-2-1024-1024-10 (Figure 5).
    "mnist-mlp-2": Shape(2, bottleneck=2, after=2, width=1024, activation="leaky_relu"),
    # Three hidden layers or one before the bottleneck, four after it (appendix G, Figures 9 to 11).
    "mnist-mlp-12": Shape(3, bottleneck=12, after=4, width=1024, activation="leaky_relu"),
    "mnist-mlp-30": Shape(3, bottleneck=30, after=4, width=1024, activation="leaky_relu"),
    "mnist-mlp-30-early": Shape(1, bottleneck=30, after=4, width=1024, activation="leaky_relu"),
}


def mlp(
    data: Data, shape: Shape, *, width: int | None, dropout: float, batch_norm: bool
) -> nn.Module:
    """Build ``hidden1 …``, ``bottleneck`` if there is one, more hidden layers, and ``head``.

    Args:
        data: the data to classify, for shape, scale and classes.
        shape: the layers.
        width: units of a hidden layer; ``None`` for the shape's own.
        dropout: dropout probability of the hidden layers, but not of the bottleneck.
        batch_norm: whether every layer except the last has a batch norm.
    """
    width = width or shape.width
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["standardize"] = Standardize(data)
    layers["flatten"] = nn.Flatten()
    units = data.x[0].numel()
    for k in range(1, shape.before + shape.after + 1):
        parts = [
            nn.Linear(units, width),
            *_norm(width, batch_norm),
            _ACTIVATIONS[shape.activation](),
        ]
        layers[f"hidden{k}"] = nn.Sequential(*parts, *([nn.Dropout(dropout)] if dropout else []))
        units = width
        if k == shape.before and shape.bottleneck:
            units = shape.bottleneck
            layers["bottleneck"] = nn.Sequential(nn.Linear(width, units), *_norm(units, batch_norm))
    layers["head"] = nn.Linear(units, data.outputs)
    return nn.Sequential(layers)


_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def _norm(units: int, wanted: bool) -> list[nn.Module]:
    return [nn.BatchNorm1d(units)] if wanted else []
