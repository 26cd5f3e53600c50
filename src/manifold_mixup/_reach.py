"""What a model can change when it runs: whatever it holds, and whatever its code can get at."""

import functools
import opcode
import queue
import socket
import subprocess
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from manifold_mixup._holders import (
    Part,
    attributes_of,
    attributes_of_class,
    dict_of,
    globals_of,
    parts_of,
)

_NOTHING: tuple[Any, ...] = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    range,
    slice,
    type,
    Tensor,
)
_NOTHING += (types.ModuleType, types.CodeType, torch.dtype, torch.device)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
# What lives a life of its own: other threads, files or processes change it meanwhile.
_ALIVE: tuple[Any, ...] = (threading.Thread, queue.Queue, socket.socket, subprocess.Popen)
_ALIVE += (Dataset, DataLoader, Sampler, torch.optim.Optimizer)
# Packages whose objects are none of the model's, unless they are modules; and parts that are.
_FOREIGN = {*sys.stdlib_module_names, "numpy", "torch", "lightning", "pytorch_lightning"}
_FOREIGN |= {"wandb", "mlflow", "tensorboardX", "comet_ml", "neptune", "clearml", "aim", "tqdm"}
_FOREIGN |= {"rich", "ray", "dask", "matplotlib", "pandas", "pyarrow", "datasets", "IPython"}
_FOREIGN |= {"pytest", "_pytest"}
_OPEN = ("torch.nn", "torch.distributions", "torch.ao", "manifold_mixup.lab")
_STORE_GLOBAL = opcode.opmap["STORE_GLOBAL"]
# Nearest first, so many objects are more than any model has: what is further is not its own.
_ENOUGH = 500_000


def reach(root: nn.Module) -> list[Part]:
    """List all that can change of what a model can get at, nearest first.

    That is its attributes, and those of the objects it holds, in whatever containers: lists, dicts,
    sets, arrays, generators of random numbers; and what its methods and the hooks on it keep in
    closures, memoize, or read as globals and attributes of classes.
    """
    walk = _Walk()
    walk.look_into(root)
    return walk.parts


class _Walk:
    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.seen: dict[int, Any] = {}  # with the objects, so that no address is used again
        self.waiting: deque[tuple[Any, bool]] = deque()

    def look_into(self, root: Any) -> None:
        self.waiting.append((root, False))
        while self.waiting and len(self.seen) < _ENOUGH:
            value, shared = self.waiting.popleft()
            if self._is_new(value):
                self._open(value, shared=shared)

    def _is_new(self, value: Any) -> bool:
        if issubclass(type(value), _NOTHING) or id(value) in self.seen:
            return False
        self.seen[id(value)] = value
        return True

    def _open(self, value: Any, *, shared: bool) -> None:
        """Note the parts of an object, and what is to be looked into next.

        Args:
            value: the object.
            shared: whether it is a global. The registries of a library lead to the whole of it, so
                functions in what is global are left alone.
        """
        if type(value) in weakref.ProxyTypes:  # which says it is of its referent's class
            self._wait(_referents(value), shared=shared)
            return
        parts = parts_of(value)
        if not parts and not _is_closed(value):
            parts = attributes_of(value)
            self._open_classes(type(value))
        self.parts += parts
        held = chain(chain.from_iterable(part.held for part in parts), _links(value))
        self._wait(held, shared=shared and not isinstance(value, nn.Module | types.FunctionType))
        if isinstance(value, types.FunctionType):
            self._open_globals(value)

    def _wait(self, values: Any, *, shared: bool) -> None:
        self.waiting += [(v, shared) for v in values if not (shared and isinstance(v, _FUNCTIONS))]

    def _open_classes(self, kind: type) -> None:
        for base in kind.__mro__:
            own = not _is_foreign(base) and not base.__module__.startswith("torch.")
            if own and id(base) not in self.seen:
                self.seen[id(base)] = base
                part = attributes_of_class(base)
                self.parts.append(part)
                self._wait(part.held, shared=False)

    def _open_globals(self, function: types.FunctionType) -> None:
        """Look into what a function reads in its file, or by way of it in another."""
        if _is_foreign(function):
            return
        space = function.__globals__
        for code in _codes(function.__code__):
            if _STORE_GLOBAL in code.co_code[::2]:
                self.parts.append(globals_of(space, code.co_names))
            read = [space[name] for name in code.co_names if name in space]
            files = [vars(f) for f in read if isinstance(f, types.ModuleType)]
            files = [file for file in files if _is_near(file["__name__"], function.__module__)]
            read += [file[name] for file in files for name in code.co_names if name in file]
            called = [item for item in read if isinstance(item, types.FunctionType)]
            called = [item for item in called if _is_near(item.__module__, function.__module__)]
            self._wait(called, shared=False)
            self._wait(read, shared=True)


def _links(value: Any) -> list[Any]:
    """List what an object leads to without holding it in a place that can be written."""
    for kind, links in _LINKS:
        if isinstance(value, kind):
            return links(value)
    # A list or dict of a class of its own has attributes as well.
    attributes = dict_of(value) if isinstance(value, dict | list | set) else None
    return [] if attributes is None else [attributes]


def _referents(proxy: Any) -> list[Any]:
    """List what a weak proxy stands for; nothing if that is gone, or hides."""
    try:
        return [proxy.__reduce_ex__.__self__]
    except (ReferenceError, AttributeError):
        return []


_LINKS: list[tuple[Any, Callable[[Any], list[Any]]]] = [
    (tuple | frozenset, list),
    (types.FunctionType, lambda v: [*(v.__closure__ or ()), v.__kwdefaults__, vars(v)]),
    (types.MethodType, lambda v: [v.__func__, v.__self__]),
    (staticmethod | classmethod, lambda v: [v.__func__]),
    (property, lambda v: [v.fget]),
    (functools.partial, lambda v: [v.func, v.keywords, vars(v)]),
    (functools._lru_cache_wrapper, lambda v: [v.__wrapped__, vars(v)]),
    (weakref.ref, lambda v: [v()]),
]


def _is_closed(value: Any) -> bool:
    """Return whether an object is none of the user's, or lives a life of its own."""
    if isinstance(value, nn.Module):
        return False
    if isinstance(value, (tuple, *_ALIVE)) or _is_foreign(type(value)):
        return True
    attributes = dict_of(value)
    return attributes is not None and any(issubclass(type(v), _ALIVE) for v in attributes.values())


def _is_foreign(thing: Any) -> bool:
    """Return whether a class or function is of a package that is none of the user's."""
    name = thing.__module__ if isinstance(thing.__module__, str) else ""
    if thing is types.SimpleNamespace or name.startswith(_OPEN):
        return False
    return name.partition(".")[0] in _FOREIGN or name.startswith("manifold_mixup")


def _is_near(name: str | None, own: str | None) -> bool:
    """Return whether a file is of the same package as another, or of none that was installed."""
    package = (name or "").partition(".")[0]
    if package in _FOREIGN:
        return False
    path = getattr(sys.modules.get(package), "__file__", None) or ""
    return package == (own or "").partition(".")[0] or "-packages" not in path


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of a function and of those inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
