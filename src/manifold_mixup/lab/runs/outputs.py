"""The raw outputs of a finished run for its test set, so that they need not be computed again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as unpack
from safetensors.torch import save as pack
from torch import Tensor

from manifold_mixup.lab.runs import files

NAME = "logits.safetensors"


def write(folder: Path, outputs: Mapping[str, Tensor], y: Tensor) -> None:
    """Write the outputs of a run.

    Args:
        folder: the run's folder.
        outputs: what the network returned for the test set, ``(n, classes)``, or ``(n, 1)`` for
            numbers, after the ``"last"`` and, if it is another, the ``"best"`` epoch. They are
            stored as float32.
        y: the targets of the test set, ``(n,)``, stored as they are.
    """
    tensors = {name: value.detach().cpu().float() for name, value in outputs.items()}
    tensors["y_test"] = y.detach().cpu()
    files.write(folder / NAME, pack({name: value.contiguous() for name, value in tensors.items()}))


def read(folder: Path) -> dict[str, Tensor]:
    """Read what `write` wrote, by name; empty for runs of versions that kept no outputs.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return {}
    try:
        return unpack(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(
            f"{path} is damaged ({error}). Delete it: evaluate then runs the network."
        ) from error


def for_test_set(folder: Path, when: Literal["last", "best"], y: Tensor) -> Tensor | None:
    """Return the outputs for the whole test set, or None if they were not kept.

    Args:
        folder: the run's folder.
        when: the epoch; if the best epoch is the last, there is one set of outputs.
        y: the targets of the test set.

    Raises:
        ValueError: the file is damaged, or its targets are not those of the test set.
    """
    tensors = read(folder)
    outputs = tensors.get(when, tensors.get("last") if when == "best" else None)
    if outputs is None:
        return None
    if not torch.equal(tensors["y_test"], y):
        raise ValueError(
            f"{folder / NAME} has the outputs for another test set: its targets differ. Delete it: "
            f"evaluate then runs the network."
        )
    return outputs
