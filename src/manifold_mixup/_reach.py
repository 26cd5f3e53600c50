"""What a model can change when it runs: whatever it holds, and whatever its code can get at."""

import argparse
import contextvars
import functools
import queue
import socket
import subprocess
import threading
import types
import weakref
from collections import ChainMap, Counter, UserDict, UserList, deque
from collections.abc import Callable, Iterable
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, Dataset, Sampler

from manifold_mixup._aside import NotTraceable
from manifold_mixup._caches import Cache, results_of
from manifold_mixup._holders import (
    ATOMS,
    Part,
    attributes_of,
    attributes_of_class,
    dict_of,
    file_of,
    globals_of,
    parts_of,
)
from manifold_mixup._names import (
    FOREIGN,
    Reads,
    codes_of,
    is_foreign,
    is_installed,
    is_near,
    package_of,
)

_LIBRARY = (types.FunctionType, type, types.ModuleType)
# What lives a life of its own: other threads, files or processes change it meanwhile.
_ALIVE: tuple[Any, ...] = (threading.Thread, queue.Queue, socket.socket, subprocess.Popen)
_ALIVE += (Dataset, DataLoader, Sampler, optim.Optimizer)
# Objects of the standard library that only hold others.
_PLAIN: tuple[Any, ...] = (threading.local, UserDict, UserList, ChainMap, types.SimpleNamespace)
_PLAIN += (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
_PLAIN += (argparse.Namespace,)
# Nearest first, so many objects are more than any model has.
_ENOUGH = 1_000_000


def reach(root: nn.Module) -> list[Part]:
    """List all that can change of what a model can get at, nearest first.

    That is its attributes, and those of the objects it holds, in whatever containers: lists, dicts,
    sets, arrays, generators of random numbers; and what its methods and the hooks on it keep in
    closures, memoize, or read and write as globals and attributes of classes and files.

    Raises:
        NotTraceable: that is more than could be put back in a reasonable time.
    """
    walk = _Walk()
    walk.look_into(root)
    return walk.parts


class _Walk:
    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.seen: dict[int, Any] = {}  # with the objects, so that no address is used again
        self.classes: dict[int, type] = {}  # those whose attributes are among the parts
        self.methods: dict[int, type] = {}  # those whose functions are looked into
        self.home: set[str] = set()  # packages that the model is made of
        self.waiting: deque[tuple[Any, bool]] = deque()

    def look_into(self, root: Any) -> None:
        self.waiting.append((root, False))
        while self.waiting:
            value, shared = self.waiting.popleft()
            if self._is_new(value):
                self._open(value, shared=shared)
            if len(self.seen) > _ENOUGH:
                raise NotTraceable(_too_much(self.parts))

    def _is_new(self, value: Any) -> bool:
        if issubclass(type(value), Tensor) or id(value) in self.seen:
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
        kind = type(value)
        if issubclass(kind, type):
            self._open_class(value)
        elif issubclass(kind, types.ModuleType):
            self._open_file(value)
        elif kind is tuple:
            self._wait(value, shared=shared)
        elif kind in weakref.ProxyTypes:  # which says it is of its referent's class
            self._wait(_referents(value), shared=shared)
        else:
            self._open_object(value, shared=shared)

    def _open_object(self, value: Any, *, shared: bool) -> None:
        parts = parts_of(value)
        if not parts and not _is_closed(value):
            parts = attributes_of(value)
            self._open_classes(type(value))
            if isinstance(value, nn.Module):
                self.home.add(package_of(type(value).__module__))
        self.parts += parts
        shared = shared and not isinstance(value, nn.Module | types.FunctionType)
        for part in parts:
            if not part.plain:
                self._wait(part.held, shared=shared)
        if links := _links(value):
            self._wait(links, shared=shared)
        if isinstance(value, types.FunctionType):
            self._open_globals(value)

    def _wait(self, values: Iterable[Any], *, shared: bool) -> None:
        changing = [v for v in values if type(v) not in ATOMS and not _is_fixed(v)]
        self.waiting += [(v, shared) for v in changing if not (shared and _is_library(v))]

    def _open_classes(self, kind: type, *, shared: bool = False) -> None:
        """Look into a class, those it is made of, and their own classes.

        Args:
            kind: the class.
            shared: whether its functions are left alone.
        """
        metaclass: Any = type(kind)
        for base in (*kind.__mro__, *metaclass.__mro__):
            if is_foreign(base) or package_of(base.__module__) == "torch":
                continue
            new = id(base) not in self.classes
            if new or (not shared and id(base) not in self.methods):
                part = attributes_of_class(base)
                self.parts += [part] if new else []
                self.classes[id(base)] = base
                self.methods |= {} if shared else {id(base): base}
                self._wait(part.held, shared=shared)

    def _open_class(self, kind: type) -> None:
        """Look into a class that something refers to, if it is the user's or the model's."""
        if self._is_home(kind.__module__):
            self._open_classes(kind, shared=is_installed(package_of(kind.__module__)))

    def _open_file(self, file: types.ModuleType) -> None:
        """Look into a file that an object holds, if it is the user's."""
        name = vars(file).get("__name__")
        if self._is_home(name) and not is_installed(package_of(name)):
            self._note(file_of(vars(file)))

    def _is_home(self, name: Any) -> bool:
        package = package_of(name)
        own = package in self.home or not is_installed(package)
        return own and package not in FOREIGN

    def _note(self, part: Part) -> None:
        self.parts.append(part)
        self._wait(part.held, shared=True)

    def _open_globals(self, function: types.FunctionType) -> None:
        """Look into what a function reads in its file, or by way of it in another."""
        if is_foreign(function):
            return
        for code in codes_of(function.__code__):
            reads = Reads(function, code)
            for space, names in reads.written():
                self.parts.append(file_of(space) if names is None else globals_of(space, names))
            values = reads.values()
            near = [v for v in values if is_a(v, (types.FunctionType, type))]
            near = [v for v in near if is_near(v.__module__, function.__module__)]
            self.waiting += [(value, False) for value in near]
            self._wait(values, shared=True)


def _is_fixed(value: Any) -> bool:
    """Return whether a value is a tuple of what never changes, as keys often are."""
    return type(value) is tuple and ATOMS.issuperset(map(type, value))


def _is_library(value: Any) -> bool:
    """Return whether a value is code: functions, classes, files, and methods of none of these."""
    if is_a(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
        return value.__self__ is None or is_a(value.__self__, _LIBRARY)
    return is_a(value, _LIBRARY)


def _links(value: Any) -> list[Any]:
    """List what an object leads to without holding it in a place that can be written."""
    if type(value) in (dict, list, set):  # nearly always
        return []
    for kind, links in _LINKS:
        if isinstance(value, kind):
            return links(value)
    # A list or dict of a class of its own has attributes as well.
    attributes = dict_of(value) if isinstance(value, dict | list | set) else None
    return [] if attributes is None else [attributes]


def is_a(value: Any, kinds: Any) -> bool:
    """Do `isinstance` without asking the value, which may answer for another or raise."""
    return issubclass(type(value), kinds)


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
    (types.BuiltinFunctionType | types.MethodWrapperType, lambda v: [v.__self__]),
    (staticmethod | classmethod, lambda v: [v.__func__]),
    (property, lambda v: [v.fget]),
    (functools.cached_property | functools.partialmethod, lambda v: [v.func]),
    (functools.partial, lambda v: [v.func, v.keywords, vars(v)]),
    (Cache, lambda v: [v.__wrapped__, vars(v), *results_of(v)]),
    (weakref.ref, lambda v: [v()]),
    (contextvars.ContextVar, lambda v: [v.get(None)]),
    (SynchronizedBase, lambda v: [v.get_obj()]),
]


def _is_closed(value: Any) -> bool:
    """Return whether an object is none of the user's, or lives a life of its own."""
    if isinstance(value, (nn.Module, *_PLAIN)):
        return False
    return isinstance(value, (tuple, *_ALIVE)) or is_foreign(type(value))


def _too_much(parts: list[Part]) -> str:
    kinds = Counter(type(part.owner).__qualname__ for part in parts)
    most = ", ".join(f"{count} of type {kind}" for kind, count in kinds.most_common(3))
    return (
        f"what it can reach is too much to be put back after a look: more than {_ENOUGH} objects "
        f"({most}). Keep such data in tensors or arrays, or outside of what its modules and their "
        f"code refer to"
    )
