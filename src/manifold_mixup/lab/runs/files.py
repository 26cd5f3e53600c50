"""Files that are written at once or not at all."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any


def writable_folder(path: Path) -> None:
    """Make a folder and try to write into it.

    Raises:
        OSError: that is not possible.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise OSError(
            f"cannot write into {path}: {error.strerror}. Choose another folder with --out."
        ) from error


def write(path: Path, content: bytes) -> None:
    """Write a file at once: a reader sees the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with no content
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON at once; NaN and infinity, which JSON has not, become ``null``."""
    text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write(path, f"{text}\n".encode())


def finite(value: Any) -> Any:
    """Put ``None`` in the place of NaN and infinity, which JSON has not, however deep."""
    if isinstance(value, dict):
        return {key: finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
