"""Plain multilayer perceptrons, with a bottleneck or without."""

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
        before: hidden layers before the bottleneck, or all of them.
        bottleneck: units of the bottleneck; 0 for none.
        after: hidden layers after it.
        width: units of a hidden layer.
        activation: what follows a hidden layer; the bottleneck stays linear.
    """

    before: int
    bottleneck: int = 0
    after: int = 0
    width: int = 256
    activation: Literal["relu", "leaky_relu"] = "relu"


SHAPES = {
    "mlp": Shape(3),
    # Nine layers, the middle one of two units (paper, Figures 1 and 2); the widths are unknown.
    "spiral-mlp": Shape(4, bottleneck=2, after=3, width=128),
    # 784-1024-1024-2-1024-1024-10 (Figure 5).
    "mnist-mlp-2": Shape(2, bottleneck=2, after=2, width=1024, activation="leaky_relu"),
    # After three hidden layers or after one, then four (appendix G, Figures 9 to 11).
    "mnist-mlp-12": Shape(3, bottleneck=12, after=4, width=1024, activation="leaky_relu"),
    "mnist-mlp-30": Shape(3, bottleneck=30, after=4, width=1024, activation="leaky_relu"),
    "mnist-mlp-30-early": Shape(1, bottleneck=30, after=4, width=1024, activation="leaky_relu"),
}


def mlp(
    data: Data, shape: Shape, *, width: int | None, dropout: float, batch_norm: bool
) -> nn.Module:
    """Build ``hidden1 …``, ``bottleneck`` if there is one, the hidden layers after it, ``head``.

    Args:
        data: what it is to classify, for shape, scale and classes.
        shape: the layers.
        width: units of a hidden layer; ``None`` is the shape's own.
        dropout: share of the hidden units that is dropped; the bottleneck's stay.
        batch_norm: whether every layer but the last is normalised.
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
    layers["head"] = nn.Linear(units, data.classes)
    return nn.Sequential(layers)


_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}


def _norm(units: int, wanted: bool) -> list[nn.Module]:
    return [nn.BatchNorm1d(units)] if wanted else []
