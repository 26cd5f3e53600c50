"""Weights and optimizer states as whole tensors, sharded or not."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from manifold_mixup.lab.runs import files

Weights = dict[str, Tensor]


def state_of(model: nn.Module) -> Weights:
    """Copy the parameters and buffers of a model to the CPU."""
    return {name: _whole(value).clone() for name, value in model.state_dict().items()}


def load(model: nn.Module, weights: Weights) -> None:
    """Load the parameters and buffers that `state_of` copied into a model."""
    current = model.state_dict()
    model.load_state_dict(
        {name: _sharded_like(current[name], value) for name, value in weights.items()}
    )


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Weights]:
    """Copy the tensors of an optimizer's state to the CPU, by the index of the parameter."""
    state = optimizer.state_dict()["state"]
    return {
        str(n): {key: _whole(value) for key, value in tensors.items()}
        for n, tensors in state.items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, state_tensors: dict[str, Weights]
) -> None:
    """Load the state that `optimizer_state` copied into an optimizer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, Any] = {
        int(n): {key: _laid_out_like(parameters[int(n)], value) for key, value in tensors.items()}
        for n, tensors in state_tensors.items()
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def write(path: Path, weights: Weights) -> None:
    """Write weights to a safetensors file."""
    files.write(path, pack({name: value.contiguous() for name, value in weights.items()}))


def read(path: Path) -> Weights:
    """Read weights that `write` wrote.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        return unpack(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). Train the run again.") from error


def fingerprint(weights: Weights) -> str:
    """Return the SHA-256 of weights, which identifies them bit for bit."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()


def _whole(value: Tensor) -> Tensor:
    """Return a full tensor on the CPU; for a sharded one, all processes must call this."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()


def _laid_out_like(template: Tensor, value: Tensor) -> Tensor:
    """Shard a full tensor like a template, or give it the same order in memory.

    Files have no channels-last tensors, and a step on tensors of two orders rounds differently.
    """
    if isinstance(template, DTensor) or template.shape != value.shape:
        return _sharded_like(template, value)
    return torch.empty_like(template, dtype=value.dtype, device=value.device).copy_(value)


def _sharded_like(template: Tensor, value: Tensor) -> Tensor:
    """Shard a full tensor like a template; one of another shape, such as a counter, stays whole."""
    if isinstance(template, DTensor) and template.shape == value.shape:
        return distribute_tensor(
            value.to(template.device), template.device_mesh, template.placements
        )
    return value
