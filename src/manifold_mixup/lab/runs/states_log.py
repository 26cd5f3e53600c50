"""What the hidden states of a run are like after its epochs: lines of JSON in its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifold_mixup.lab.runs import files

NAME = "states.jsonl"


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the measured epochs of a run, each with its ``epoch``; empty if none was measured.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it.") from error
    return list({row["epoch"]: row for row in rows}.values())


def truncate(folder: Path, *, epochs: int) -> None:
    """Remove what was measured after an epoch, because a resumed run trains it again."""
    rows = [row for row in read(folder) if row["epoch"] <= epochs]
    if (folder / NAME).exists():
        files.write(folder / NAME, "".join(map(_line, rows)).encode())


def add(folder: Path, epoch: int, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Add the measures of an epoch, by part of `evaluate`."""
    with (folder / NAME).open("a") as file:
        file.write(_line({"epoch": epoch, **rows}))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(files.finite(dict(row)), allow_nan=False) + "\n"
