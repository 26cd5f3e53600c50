"""What a run needs to go on as if it had never stopped, in one file of tensors and plain data.

Nothing is pickled: loading a checkpoint runs no code.
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
    """A moment of a training.

    Attributes:
        epoch: the epoch that is under way or comes next; the first is 1.
        step: steps taken in it.
        seconds: time spent training so far.
        sums: the loss times examples, and the examples, summed over the epoch so far by this
            process; ``(2,)``. What is kept is ``tensors["sums"]``, a row for each process.
        curve: the epochs that are done.
        best_epoch: the one with the least error.
        method: where the mixing is in its stream of plans.
        scaler: of the gradients, where the precision needs one.
        tensors: the weights and the optimizer's, and under ``"best"`` the weights after
            ``best_epoch``; nested by name.
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
    """A file that is no checkpoint of this run; the message says why."""


def save(folder: Path, state: State, *, run: str) -> None:
    """Write the checkpoint of a run; the one before stays beside it.

    Args:
        folder: the run's.
        state: what to write.
        run: fingerprint of its recipe and data.

    Raises:
        OSError: it could not be written; a good checkpoint that was there still is.
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
    """Return the newest good checkpoint of a run, and why a newer one was passed over.

    Args:
        folder: the run's.
        run: fingerprint of its recipe and data.
    """
    refused: list[str] = []
    for path in (folder / LATEST, folder / BEFORE):
        if path.exists():
            try:
                return read(path, run=run), refused
            except Foreign as error:
                refused.append(str(error))
                # Out of the way, so that it never takes the place of a good one.
                path.replace(path.with_name(f"{path.name}.refused"))
    return None, refused


def read(path: Path, *, run: str) -> State:
    """Read one checkpoint.

    Args:
        path: the file.
        run: fingerprint of the recipe and the data it must belong to.

    Raises:
        Foreign: it is damaged, no checkpoint, or of another run.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = _nested({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Foreign(f"{path.name} is damaged ({error})") from error
    if about.get("format") != _FORMAT:
        raise Foreign(f"{path.name} is no checkpoint of this program")
    if about["run"] != run:
        raise Foreign(f"{path.name} is the checkpoint of another run")
    facts = json.loads(about["facts"])
    facts["curve"] = [read_epoch(epoch) for epoch in facts["curve"]]
    return State(tensors=tensors, **facts)


def remove(folder: Path) -> None:
    """Take the checkpoints away; a finished run needs none."""
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
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = tensor
    return nested
