"""Running a trained model over many inputs, and leaving it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from manifold_mixup.lab.data import as_input

CHUNK = 1000
"""How many inputs a model is given at once."""


@torch.inference_mode()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    """Run a model over many inputs, a thousand at a time, on the device it is on."""
    return torch.cat([model(part) for part in inputs(x, device=device_of(model, x))])


def inputs(x: Tensor, *, device: torch.device) -> Iterator[Tensor]:
    """Yield stored inputs chunk by chunk as models take them."""
    for part in x.split(CHUNK):
        yield as_input(part.to(device))


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Return the device of a model; of one without parameters and buffers, that of ``x``."""
    for tensors in (model.parameters(), model.buffers()):
        if (first := next(tensors, None)) is not None:
            return first.device
    return x.device


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode inside; afterwards every module is in the mode it was in."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training  # not train(), which would reach frozen children
