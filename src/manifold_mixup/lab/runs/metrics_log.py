"""The metrics log of a run: lines of JSON, and TensorBoard events."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from manifold_mixup.lab.runs import files
from manifold_mixup.lab.runs.result import Epoch

METRICS = "metrics.jsonl"


class Log:
    """Logs each epoch in the folder of a run; does nothing without a folder.

    A context manager: TensorBoard writes in a thread, which ends with it, also if a run diverges.

    Args:
        folder: the run's folder.
        curve: the epochs before, if the run is resumed.
    """

    def __init__(self, folder: Path | None, curve: list[Epoch]) -> None:
        self._folder = folder
        self._board: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            # Epochs after the checkpoint are trained again, so their lines are removed.
            files.write(folder / METRICS, "".join(map(_line, curve)).encode())
            self._board = SummaryWriter(str(folder), purge_step=len(curve) + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    def add(self, epoch: Epoch) -> None:
        """Log an epoch."""
        if self._folder is None:
            return
        with (self._folder / METRICS).open("a") as file:
            file.write(_line(epoch))
        for key, value in asdict(epoch).items():
            if key != "epoch":
                self._board.add_scalar(key, value, epoch.epoch)
        self._board.flush()


def _line(epoch: Epoch) -> str:
    return json.dumps(files.finite(asdict(epoch)), allow_nan=False) + "\n"
