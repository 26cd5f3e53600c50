"""Models by name, built to fit a data set.

Given a name, the user's own file or a recipe, it returns a freshly initialised model, and the
layers at which manifold mixup mixes it.

Imported by: candidates, commands, runs, search, terminal, training.
Imports: data, recipes.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from manifold_mixup import find_layers
from manifold_mixup._inspect import inspect_model
from manifold_mixup.lab.data import Data, arguments, as_input
from manifold_mixup.lab.data.arrays import is_tokens
from manifold_mixup.lab.models import external, pretrained
from manifold_mixup.lab.models.cnn import cnn, factor_cnn
from manifold_mixup.lab.models.in_units import InUnits
from manifold_mixup.lab.models.mlp import SHAPES, mlp
from manifold_mixup.lab.models.preact_resnet import DEPTHS, preact_resnet
from manifold_mixup.lab.models.text_encoder import text_encoder
from manifold_mixup.lab.models.wide_resnet import wide_resnet
from manifold_mixup.lab.recipes.recipe import HIDDEN
from manifold_mixup.lab.suggest import unknown

__all__ = ["NAMES", "build", "check_name", "eligible", "has_positions"]

_WIDE = {"wrn-28-10": 10, "wrn-28-2": 2}
_PREACT = {f"preact-resnet{depth}": depth for depth in DEPTHS}
NAMES = (*SHAPES, "cnn", "factor-cnn", *_PREACT, *_WIDE)
TEXTS = "text-encoder"
"""The model for texts, which no data set of the command line has."""
ABOUT = {
    "mlp": "A perceptron with three hidden layers, for vectors and images.",
    "spiral-mlp": "The perceptron of Figures 1 and 2, with a bottleneck of 2 units.",
    **{
        name: f"A perceptron for MNIST, with a bottleneck of {SHAPES[name].bottleneck} units."
        for name in ("mnist-mlp-2", "mnist-mlp-12", "mnist-mlp-30")
    },
    "mnist-mlp-30-early": "A perceptron for MNIST, with the bottleneck after one hidden layer.",
    "cnn": "Three convolutional stages, for signals and images.",
    "factor-cnn": "The network of Table 8, four convolutional stages, for images.",
    **dict.fromkeys(_PREACT, "A pre-activation ResNet as in the paper, for images."),
    **dict.fromkeys(_WIDE, "A wide ResNet as in the paper, for images."),
    "timm:NAME": "A model of timm, such as timm:resnet18, for images.",
    "torchvision:NAME": "A model of torchvision, such as torchvision:resnet18, for images.",
}
"""Every model name with a description."""


def build(
    name: str,
    data: Data,
    *,
    width: int | None = None,
    dropout: float = 0.0,
    batch_norm: bool | None = None,
    noise: float = 0.0,
    weights: str | None = None,
) -> nn.Module:
    """Build a model for a data set, with weights drawn from torch's global generator.

    The first module standardises, so that the model takes inputs in the units of the data.

    Args:
        name: one of `NAMES`, `TEXTS`, ``"timm:NAME"`` or ``"torchvision:NAME"``.
        data: the data to classify, or to predict the numbers of.
        width: units of a hidden layer, or channels of the first stage; ``None`` for the model's
            own.
        dropout: dropout probability, in models that have dropout.
        batch_norm: True adds batch norms to perceptrons, False removes every batch norm, ``None``
            keeps the model as it is.
        noise: standard deviation of Gaussian noise on the standardised input during training.
        weights: pretrained weights, as `pretrained.find` takes them; the last linear layer stays
            as initialised if they have another number of classes.

    Raises:
        ValueError: there is no such model, it does not support this kind of data, or the weights
            do not fit.
    """
    check_name(name)
    if data.regression:
        _require_numbers(name, data)
    if name == TEXTS or data.tokens:
        _require_tokens(name, data)
        return text_encoder(data, weights, dropout=dropout)
    model = _network(name, data, width, dropout, batch_norm)
    if batch_norm is False:
        _without_norms(model)
    if weights is not None:
        pretrained.fill(model, weights)
    if data.regression:
        model.add_module("units", InUnits(data.y))
    return _with_noise(model, noise) if noise else model


def _network(
    name: str, data: Data, width: int | None, dropout: float, batch_norm: bool | None
) -> nn.Module:
    """Build a network for vectors or images."""
    if name in SHAPES:
        normed = batch_norm is True
        return mlp(data, SHAPES[name], width=width, dropout=dropout, batch_norm=normed)
    if name == "cnn":
        return cnn(data, width=width, dropout=dropout)
    if ":" in name:
        return external.build(data, name, dropout=dropout)
    return _of_images(name, data, width, dropout)


def _of_images(name: str, data: Data, width: int | None, dropout: float) -> nn.Module:
    """Build a network of the lab that takes images only."""
    _require_images(name, data)
    if name == "factor-cnn":
        return factor_cnn(data, width=width)
    if name in _PREACT:
        return preact_resnet(data, depth=_PREACT[name], width=width, dropout=dropout)
    return wide_resnet(data, depth=28, widen=_WIDE[name], width=width, dropout=dropout)


def eligible(name: str, model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Return the default layers S of manifold mixup for a model.

    For models of the paper, S is as in the paper; for others, `find_layers` chooses.

    Args:
        name: the name of the model.
        model: the model itself.
        x: some stored inputs.
    """
    if is_tokens(x):
        return inspect_model(model, (), arguments(x[:2]), {}, "mask").default
    return HIDDEN.get(name) or find_layers(model, as_input(x[:2])).default


def has_positions(name: str) -> bool:
    """Return whether the states of a model have positions, such as pixels; perceptrons have not."""
    return name not in SHAPES


def check_name(name: str) -> None:
    """Raise a `ValueError` with the nearest name if there is no such model."""
    if name in (*NAMES, TEXTS):
        return
    if name.partition(":")[0] in ("timm", "torchvision") and ":" in name:
        external.check_name(name)
        return
    raise ValueError(f"{unknown('model', name, (*NAMES, 'timm:NAME', 'torchvision:NAME'))}.")


def _require_numbers(name: str, data: Data) -> None:
    if name != "cnn" and name not in SHAPES:
        raise ValueError(
            f"{name} predicts classes, but {data.name} has numbers as targets. Use mlp or cnn."
        )


def _require_images(name: str, data: Data) -> None:
    if data.x.ndim != 4:
        raise ValueError(
            f"{name} takes images, but the inputs of {data.name} have shape "
            f"{tuple(data.x.shape[1:])}. Use mlp or cnn."
        )


def _require_tokens(name: str, data: Data) -> None:
    if not data.tokens:
        raise ValueError(f"{TEXTS} takes texts, but the inputs of {data.name} are not.")
    if name != TEXTS or data.regression:
        what = "numbers as targets" if name == TEXTS else "ids of tokens as inputs"
        raise ValueError(f"{name} does not take {data.name}, which has {what}.")


def _without_norms(model: nn.Module) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())


class _Noise(nn.Module):
    """Gaussian noise during training, a baseline of the paper's Figure 2."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training else x


def _with_noise(model: nn.Module, std: float) -> nn.Module:
    (first, standardize), *others = model.named_children()
    return nn.Sequential(OrderedDict([(first, standardize), ("noise", _Noise(std)), *others]))
