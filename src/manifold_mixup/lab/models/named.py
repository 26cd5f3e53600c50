"""A model named on the command line, with one batch for it, and its layers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from manifold_mixup._inspect import inspect_model
from manifold_mixup._structure.table import LayerTable
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models import user_code

USUAL = (3, 224, 224)
"""The default shape of one input."""


class ModelAndBatch(NamedTuple):
    """A model, and one batch as `ManifoldMixup` takes it for ``example=``.

    Attributes:
        model: the model.
        example: the batch.
        batch: a description of the batch, for the message if the model fails on it.
        way_out: what to do then.
    """

    model: nn.Module
    example: Any
    batch: str
    way_out: str


def inspect_named(
    name: str, *, shape: tuple[int, ...] = (), classes: int = 10, mask: str | None = None
) -> LayerTable:
    """Build a model and find its layers.

    Args:
        name: a model of the lab, ``"timm:NAME"``, ``"torchvision:NAME"``, or a place in the user's
            code as `user_code.load` takes it. The user's code gives a model, or a function without
            arguments that returns a model, or a model and a batch.
        shape: shape of one input; empty for the default.
        classes: number of classes, for the lab's own models.
        mask: name of the padding mask to mix too.

    Raises:
        ValueError: there is no such model or mask, or the model fails on the batch.
    """
    subject = _model_and_batch(name, shape, classes)
    args, kwargs = _arguments(subject.example)
    try:
        return inspect_model(subject.model, (), args, kwargs, mask)
    except RuntimeError as error:
        reason = f"{name} does not run on {subject.batch}: {error}. {subject.way_out}."
        raise ValueError(reason) from error


def _model_and_batch(name: str, shape: tuple[int, ...], classes: int) -> ModelAndBatch:
    library, _, rest = name.partition(":")
    if library in ("timm", "torchvision"):
        models.check_name(name)
        model = _published(library, rest)
        return _with_images(model, shape or _default_shape(model))
    if ":" in name or name.endswith(".py"):
        return _from_user(name, shape)
    models.check_name(name)
    shape = shape or ((40,) if "mlp" in name else (3, 32, 32))
    return _with_images(models.build(name, _stand_in(shape, classes)), shape)


def _published(library: str, name: str) -> nn.Module:
    """Build a model of a library without adapting it to small images."""
    if library == "timm":
        import timm

        model: nn.Module = timm.create_model(name)
    else:
        from torchvision.models import get_model

        model = get_model(name, weights=None)
    return model


def _default_shape(model: nn.Module) -> tuple[int, ...]:
    """Return the input shape that a timm model was made for."""
    config = getattr(model, "default_cfg", None) or {}
    return tuple(config.get("input_size") or USUAL)


def _from_user(name: str, shape: tuple[int, ...]) -> ModelAndBatch:
    value = user_code.load(name)
    model, example = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{name} returned {_kind(value)}. Expected an nn.Module, or an nn.Module and one batch "
            f"for it: a tensor, a tuple of positional arguments or a dict of keyword arguments."
        )
    if example is None:
        way_out = f"Give another --shape, or let {name} return the model and a batch for it"
        return _with_images(model, shape or USUAL, way_out)
    if shape:
        raise ValueError(f"{name} returns its own batch. Leave out --shape.")
    way_out = "A tuple is the positional arguments of forward, a dict its keyword arguments"
    return ModelAndBatch(model, example, f"the batch that {name} returns", way_out)


def _with_images(
    model: nn.Module, shape: tuple[int, ...], way_out: str = "Give another --shape"
) -> ModelAndBatch:
    return ModelAndBatch(model, torch.rand(2, *shape), f"inputs of shape {shape}", way_out)


def _stand_in(shape: tuple[int, ...], classes: int) -> Data:
    """Return data of a shape, for models that are built to fit data."""
    x, y = torch.rand(2, *shape), torch.zeros(2, dtype=torch.int64)
    return Data("inputs of that shape", x, y, x, y, classes=classes, eps=0.0, space="")


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn a batch into positional and keyword arguments."""
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example if isinstance(example, tuple) else (example,)), {}


def _kind(value: object) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_kind, value))})"
    return type(value).__name__
