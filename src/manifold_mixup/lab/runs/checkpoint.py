"""Checkpoints: the full state of a training in one file of tensors and JSON.

Nothing is pickled, so loading a checkpoint executes no code.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as pack
from torch import Tensor

from manifold_mixup.lab.runs import files
from manifold_mixup.lab.runs.files import finite
from manifold_mixup.lab.runs.result import Epoch, read_epoch

LATEST, BEFORE = "checkpoint.safetensors", "checkpoint-before.safetensors"
_FORMAT = "manifold-mixup checkpoint 1"

Nested = dict[str, Any]


@dataclass
class State:
    """The state of a training.

    Attributes:
        epoch: the current epoch, from 1.
        step: steps taken in it.
        seconds: time spent training so far.
        sums: the sum of the losses and the number of examples in the epoch so far, of this process;
            ``(2,)``. A checkpoint stores ``tensors["sums"]`` instead, with a row per process.
        curve: the finished epochs.
        best_epoch: the epoch with the lowest error.
        method: the position of the mixing in its stream of plans.
        scaler: the state of the gradient scaler, if the precision needs one.
        tensors: weights and optimizer state, nested by name; ``"best"`` has the weights after
            ``best_epoch``.
    """

    epoch: int = 1
    step: int = 0
    seconds: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(2))
    curve: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    method: Nested = field(default_factory=dict)
    scaler: Nested = field(default_factory=dict)
    tensors: Nested = field(default_factory=dict)


class Foreign(ValueError):
    """A file that is not a checkpoint of this run; the message has the reason."""


def save(folder: Path, state: State, *, run: str) -> None:
    """Write the checkpoint of a run, and keep the previous one beside it.

    Args:
        folder: the run's folder.
        state: the state to write.
        run: fingerprint of its recipe and data.

    Raises:
        OSError: it could not be written; the last good checkpoint is still there.
    """
    facts = vars(state) | {"curve": [asdict(epoch) for epoch in state.curve]}
    tensors = facts.pop("tensors")
    del facts["sums"]
    flat = {path: tensor.detach().cpu().contiguous() for path, tensor in _flat(tensors)}
    content = pack(
        flat, {"format": _FORMAT, "run": run, "facts": json.dumps(finite(facts), allow_nan=False)}
    )
    if (folder / LATEST).exists():
        (folder / LATEST).replace(folder / BEFORE)
    files.write(folder / LATEST, content)


def load(folder: Path, *, run: str) -> tuple[State | None, list[str]]:
    """Return the newest valid checkpoint of a run, and the reasons why newer ones were rejected.

    Args:
        folder: the run's folder.
        run: fingerprint of its recipe and data.
    """
    rejected: list[str] = []
    for path in (folder / LATEST, folder / BEFORE):
        if path.exists():
            try:
                return read(path, run=run), rejected
            except Foreign as error:
                rejected.append(str(error))
                # Renamed, so that the next save does not replace a valid checkpoint with it.
                path.replace(path.with_name(f"{path.name}.refused"))
    return None, rejected


def read(path: Path, *, run: str) -> State:
    """Read one checkpoint.

    Args:
        path: the file.
        run: fingerprint of the recipe and the data it must belong to.

    Raises:
        Foreign: it is damaged, not a checkpoint, or of another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = _nested({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Foreign(f"{path.name} is damaged ({error})") from error
    if about.get("format") != _FORMAT:
        raise Foreign(f"{path.name} is not a checkpoint of this program")
    if about["run"] != run:
        raise Foreign(f"{path.name} is the checkpoint of another run")
    facts = json.loads(about["facts"])
    facts["curve"] = [read_epoch(epoch) for epoch in facts["curve"]]
    return State(tensors=tensors, **facts)


def remove(folder: Path) -> None:
    """Delete the checkpoints; a finished run does not need them."""
    for name in (LATEST, BEFORE):
        (folder / name).unlink(missing_ok=True)


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Tensor]]:
    for key, child in value.items():
        if isinstance(child, Tensor):
            yield f"{path}{key}", child
        elif isinstance(child, Mapping):
            yield from _flat(child, f"{path}{key}/")


def _nested(tensors: Mapping[str, Tensor]) -> Nested:
    nested: Nested = {}
    for path, tensor in tensors.items():
        *parents, name = path.split("/")
        level = nested
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = tensor
    return nested
