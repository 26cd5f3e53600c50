"""``manifold-mixup layers``: where a model can be mixed, as a table."""

import importlib
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from rich.console import Console
from torch import nn

from manifold_mixup import find_layers
from manifold_mixup._table import LayerTable
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data


@dataclass(frozen=True)
class Layers:
    """Show where a model can be mixed, and where it would be mixed if nothing is said."""

    model: tyro.conf.Positional[str]
    """preact-resnet18 and the other models of the lab, timm:NAME, torchvision:NAME, or PACKAGE:NAME
    of a function or class of yours that builds a model without arguments."""
    shape: tuple[int, ...] = ()
    """Of one input, such as 3 224 224; left out: 3 32 32 for the lab's own networks of images, 40
    for its perceptrons, and 3 224 224 for all others."""
    classes: int = 10
    """Of the lab's own models."""


def prepare(options: Layers) -> LayerTable:
    """Build the model and look at it.

    Raises:
        ValueError: there is no such model, or it does not take such an input.
    """
    model, shape = _model(options)
    try:
        return find_layers(model, torch.rand(2, *shape))
    except RuntimeError as error:
        raise ValueError(
            f"{options.model} does not run on inputs of shape {shape}: {error}. Give another "
            f"--shape."
        ) from error


def show_layers(table: LayerTable) -> bool:
    """Print the table, and the layers that would be chosen."""
    console = Console()
    console.print(str(table), markup=False, highlight=False, soft_wrap=True)
    try:
        chosen = ", ".join(table.default)
    except ValueError as error:
        chosen = f"none, because {error}"
    console.print(f"\nlayers=None mixes at: {chosen}", markup=False, highlight=False)
    return True


def _model(options: Layers) -> tuple[nn.Module, tuple[int, ...]]:
    """Build the model as it is for large images, or the lab's own for small ones."""
    library, _, name = options.model.partition(":")
    if library in ("timm", "torchvision"):
        models.check_name(options.model)
        return _published(library, name), options.shape or (3, 224, 224)
    if name:
        return _own(library, name), options.shape or (3, 224, 224)
    models.check_name(options.model)
    shape = options.shape or ((40,) if "mlp" in options.model else (3, 32, 32))
    return models.build(options.model, _stand_in(shape, options.classes)), shape


def _published(library: str, name: str) -> nn.Module:
    if library == "timm":
        import timm

        model: nn.Module = timm.create_model(name)
    else:
        from torchvision.models import get_model

        model = get_model(name, weights=None)
    return model


def _own(package: str, name: str) -> nn.Module:
    try:
        build: Any = getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{package}:{name} cannot be imported: {error}. Expected PACKAGE:NAME of a function or "
            f"class that builds a model without arguments."
        ) from error
    model = build() if not isinstance(build, nn.Module) else build
    if not isinstance(model, nn.Module):
        raise ValueError(f"{package}:{name} returned {type(model).__name__}, not an nn.Module.")
    return model


def _stand_in(shape: tuple[int, ...], classes: int) -> Data:
    """Make data of a shape, for models that are built to fit data."""
    x, y = torch.rand(2, *shape), torch.zeros(2, dtype=torch.int64)
    return Data("inputs of that shape", x, y, x, y, classes=classes, eps=0.0, space="")
