"""Inference with a trained model on many inputs, without changing the model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from manifold_mixup.lab.data import arguments, as_input

CHUNK = 1000
"""The batch size of inference."""


@torch.inference_mode()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of many inputs, computed in chunks on the model's device.

    Raises:
        TypeError: the model does not return a tensor.
    """
    return torch.cat([_outputs(model, part) for part in inputs(x, device=device_of(model, x))])


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    outputs = model(*arguments(x))
    if not isinstance(outputs, Tensor):
        raise TypeError(
            f"{type(model).__name__} returns {type(outputs).__name__}. Expected a tensor of "
            f"logits, (n, classes): wrap the model in one that returns it."
        )
    return outputs


def inputs(x: Tensor, *, device: torch.device) -> Iterator[Tensor]:
    """Yield stored inputs in chunks, converted for models."""
    for part in x.split(CHUNK):
        yield as_input(part.to(device))


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Return the device of a model, or that of ``x`` if it has no parameters and buffers."""
    for tensors in (model.parameters(), model.buffers()):
        if (first := next(tensors, None)) is not None:
            return first.device
    return x.device


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and restore the mode of every module afterwards."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training  # not train(), which would also change the children
