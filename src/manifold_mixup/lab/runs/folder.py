"""The folder of a run: recipe, checkpoints, metrics, and finally the result."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import Recipe, identity
from manifold_mixup.lab.runs import files, provenance
from manifold_mixup.lab.runs.result import Result, read_result, read_run

RECIPE, RESULT = "recipe.json", "result.json"
_FORMAT = 1
_WAY_OUT = "Delete it, or give another folder."
_PATIENCE = 10  # seconds to wait for the lock; a run that is stopping may still be saving


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Lock a run's folder, so that only one training uses it.

    The lock is released when the process ends, even if it is killed. If several processes train
    one run together, the first one holds the lock.

    Raises:
        BlockingIOError: another training uses the folder.
        OSError: the folder cannot be written.
    """
    if folder is None or provenance.rank() != 0:
        yield
        return
    files.writable_folder(folder)
    lock = FileLock(folder / ".lock", timeout=_PATIENCE)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(
            f"another process is training the run in {folder}. Wait until it ends, stop it, or "
            f"give another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def claim(folder: Path, run: Recipe, data: Data) -> Result | None:
    """Prepare the folder of a run; return the result if the run is finished.

    Raises:
        ValueError: the folder has another run; the message has the differences.
        OSError: the folder cannot be written.
    """
    files.writable_folder(folder)
    identity_of_run = {
        "run": dataclasses.asdict(run),
        "data": provenance.fingerprint(data),
        "processes": provenance.processes(),
    }
    recipe = folder / RECIPE
    if not recipe.exists():
        files.write_json(
            recipe, {"format": _FORMAT, **identity_of_run, "started": provenance.describe()}
        )
        return None
    _require_same(recipe, identity_of_run)
    result = folder / RESULT
    return _result(result) if result.exists() else None


def fingerprint(run: Recipe, data: Data) -> str:
    """Return the SHA-256 of a recipe and its data, which identifies a checkpoint's run."""
    text = json.dumps([identity(run), provenance.fingerprint(data)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def finish(folder: Path, result: Result) -> None:
    """Write the result of a run."""
    content = {"format": _FORMAT, "result": dataclasses.asdict(result), **provenance.describe()}
    files.write_json(folder / RESULT, content)


def finished(folder: Path) -> Result | None:
    """Return the result in a folder, or None."""
    path = folder / RESULT
    return _result(path) if path.exists() else None


def _result(path: Path) -> Result:
    try:
        return read_result(_read(path)["result"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}). {_WAY_OUT}") from error


def recipe(folder: Path) -> Recipe:
    """Return the recipe of the run in a folder.

    Raises:
        FileNotFoundError: the folder has no run.
    """
    if not (folder / RECIPE).exists():
        raise FileNotFoundError(
            f"{folder} is not the folder of a run: it has no {RECIPE}. Give a run's folder."
        )
    try:
        return read_run(_read(folder / RECIPE)["run"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / RECIPE} is damaged ({error!r}). Give another folder."
        ) from error


def data_fingerprint(folder: Path) -> str:
    """Return the fingerprint of the data that the run in a folder was trained on."""
    path = folder / RECIPE
    try:
        return str(_read(path)["data"])
    except KeyError as error:
        raise ValueError(f"{path} is damaged ({error!r}). {_WAY_OUT}") from error


def folder_name(run: Recipe) -> str:
    """Return a readable folder name for a run, unique to its recipe."""
    text = json.dumps(identity(run), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    words = (run.data, run.model, run.method, f"seed {run.seed}", digest)
    return "-".join("".join(c if c.isalnum() else "_" for c in word) for word in words)


def _require_same(path: Path, current: dict[str, Any]) -> None:
    stored, given = _read(path), json.loads(json.dumps(current))
    if missing := [key for key in given if not isinstance(stored.get(key), type(given[key]))]:
        raise ValueError(f"{path} is damaged (it has no {missing[0]!r}). {_WAY_OUT}")
    defaults = json.loads(json.dumps(dataclasses.asdict(Recipe())))
    stored_run = {**defaults, **stored["run"]}  # older runs have fewer settings
    given_run = given["run"]
    differ = [
        f"{key} {stored_run.get(key)!r} there, {given_run.get(key)!r} here"
        for key in {**stored_run, **given_run}
        if stored_run.get(key) != given_run.get(key)
    ]
    if stored["processes"] != given["processes"]:
        differ.append(f"{stored['processes']} processes there, {given['processes']} here")
    if differ:
        raise ValueError(
            f"{path.parent} has a run with other settings: {'; '.join(differ)}. Give the same "
            f"settings to resume it, or another folder."
        )
    if stored["data"] != given["data"]:
        raise ValueError(
            f"{path.parent} has a run on other data of the same name, {given_run['data']!r}: the "
            f"arrays differ. Give the same data to resume it, or another folder."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}). {_WAY_OUT}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{path} was not written by this version. Give another folder.")
    checked: dict[str, Any] = content
    return checked
