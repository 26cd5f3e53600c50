"""Atomic writing of files."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any


def writable_folder(path: Path) -> None:
    """Create a folder, and check that files can be written in it.

    Raises:
        OSError: this fails.
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
    """Write a file atomically: readers see the old content or the new one, never a part.

    Raises:
        OSError: this fails, as on a full disk; the message names the file.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut may leave an empty file
        part.replace(path)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}. Make room or allow writing, and give the same "
            f"command again, or choose another folder."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity, which JSON does not have, become ``null``."""
    text = json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    write(path, f"{text}\n".encode())


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not have, by ``None`` at any depth."""
    if isinstance(value, dict):
        return {key: finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
