"""The user's own objects, loaded by name from a file or a package."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from manifold_mixup.lab.suggest import nearest


def load(place: str) -> Any:
    """Return the named object; a function or class is called without arguments.

    A file is executed, and can import the files beside it, as with ``python FILE.py``. A package is
    searched for in the current folder first, as with ``python -m``.

    Args:
        place: ``"FILE.py:NAME"`` or ``"PACKAGE:NAME"``.

    Raises:
        ValueError: there is no such object, it needs arguments, or its code fails; the message
            names the line.
    """
    home, _, name = place.rpartition(":")
    if not home:
        raise ValueError(f"{place} is only a file. Name the object in it too: {place}:NAME")
    with _errors_name_the_line(place):
        module = _run(Path(home).expanduser()) if home.endswith(".py") else _import(home)
    value = getattr(module, name, None)
    if value is None:
        raise ValueError(f"{home} has no {name!r}.{nearest(name, vars(module))}")
    if isinstance(value, nn.Module) or not callable(value):
        return value
    if needed := _required_arguments(value):
        raise ValueError(
            f"{place} needs {', '.join(needed)}, but is called without arguments. Name a function "
            f"that calls it with them."
        )
    with _errors_name_the_line(place):
        return value()


def _run(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; paths are relative to {Path.cwd()}")
    sys.path.insert(0, str(file.resolve().parent))
    # Some code, such as dataclasses, looks its module up in sys.modules.
    name = file.stem if file.stem not in sys.modules else f"{file.stem} of yours"
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(file)
    SourceFileLoader(name, str(file)).exec_module(module)
    return module


def _import(package: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(package)


def _required_arguments(function: Any) -> list[str]:
    """Return the names of the required arguments."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some C functions have no signature
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind not in variadic
    ]


@contextmanager
def _errors_name_the_line(place: str) -> Iterator[None]:
    """Turn an error in the user's code into a `ValueError` that names the error and its line."""
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = f"{place} cannot be loaded: {type(error).__name__}: {error}{_line(error)}"
        raise ValueError(reason) from error


def _line(error: BaseException) -> str:
    """Return the line of the user's file that raised an error, or "" if none was reached."""
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [
        frame
        for frame in frames
        if frame.filename != __file__ and "importlib" not in frame.filename
    ]
    if not user_frames:
        return ""
    last = [frame for frame in user_frames if frame.filename == user_frames[0].filename][-1]
    return f" ({last.filename}, line {last.lineno})"
