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


def of(model: nn.Module) -> Weights:
    """Copy the parameters and buffers of a model to the CPU."""
    return {name: _whole(value).clone() for name, value in model.state_dict().items()}


def put(model: nn.Module, weights: Weights) -> None:
    """Load the parameters and buffers that `of` copied into a model."""
    own = model.state_dict()
    model.load_state_dict({name: _like(own[name], value) for name, value in weights.items()})


def of_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Weights]:
    """Copy the tensors of an optimizer's state to the CPU, by the index of the parameter."""
    state = optimizer.state_dict()["state"]
    return {
        str(n): {key: _whole(value) for key, value in kept.items()} for n, kept in state.items()
    }


def put_optimizer(optimizer: torch.optim.Optimizer, kept: dict[str, Weights]) -> None:
    """Load the state that `of_optimizer` copied into an optimizer."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, Any] = {
        int(n): {key: _like(parameters[int(n)], value) for key, value in own.items()}
        for n, own in kept.items()
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


def _like(own: Tensor, value: Tensor) -> Tensor:
    """Shard a full tensor like ``own``; tensors of another shape, such as counters, stay whole."""
    if isinstance(own, DTensor) and own.shape == value.shape:
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value
