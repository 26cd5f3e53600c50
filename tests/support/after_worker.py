"""What workers do with finished runs, in lab/launch/test_processes.py; here they can import it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def look_at(folder: Path, data: Any, tell: Callable[[str], None]) -> None:
    """A stand-in for an evaluation."""
    tell(f"looked at {len(list(folder.glob('result.json')))} result of {data.name}")


def look_for_ever(folder: Path, data: Any, tell: Callable[[str], None]) -> None:
    """A stand-in for a long evaluation."""
    while True:
        tell("looking")
        time.sleep(0.01)
