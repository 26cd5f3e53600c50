"""Find what a model can change when it runs: the objects it holds and its code can reach."""

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

from manifold_mixup._dry_run.caches import Cache, results_of
from manifold_mixup._dry_run.errors import NotTraceable
from manifold_mixup._dry_run.holders import (
    ATOMS,
    Part,
    attributes_of,
    attributes_of_class,
    dict_of,
    file_of,
    globals_of,
    is_empty,
    parts_of,
    parts_of_empty,
)
from manifold_mixup._dry_run.names import (
    FOREIGN,
    Reads,
    codes_of,
    is_foreign,
    is_installed,
    is_near,
    package_of,
)

_LIBRARY = (types.FunctionType, type, types.ModuleType)
# Attributes of classes that wrap a function.
_WRAPPED: tuple[Any, ...] = (staticmethod, classmethod, property)
_WRAPPED += (functools.cached_property, functools.partialmethod)
# Objects that other threads, files or processes may change meanwhile.
_ALIVE: tuple[Any, ...] = (threading.Thread, queue.Queue, socket.socket, subprocess.Popen)
_ALIVE += (Dataset, DataLoader, Sampler, optim.Optimizer)
# Containers of the standard library.
_PLAIN: tuple[Any, ...] = (threading.local, UserDict, UserList, ChainMap, types.SimpleNamespace)
_PLAIN += (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
_PLAIN += (argparse.Namespace,)
# No real model reaches more objects than this.
_ENOUGH = 1_000_000


def reach(root: nn.Module) -> list[Part]:
    """List everything that can change among the objects a model can reach, nearest first.

    This includes its attributes and those of the objects it holds, in lists, dicts, sets, arrays
    and random generators. It also includes what its methods and hooks keep in closures, memoize, or
    read and write as globals and as attributes of classes and modules.

    Raises:
        NotTraceable: there are too many objects to restore in a reasonable time.
    """
    walk = _Walk()
    walk.search(root)
    return walk.parts


class _Walk:
    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.seen: dict[int, Any] = {}  # keeps the objects, so that no id is reused
        self.classes: dict[int, type] = {}  # classes whose attributes are among the parts
        self.methods: dict[int, type] = {}  # classes whose functions are searched
        self.own_packages: set[str] = set()  # packages of the model's modules
        self.queued: deque[tuple[Any, bool]] = deque()

    def search(self, root: Any) -> None:
        self.queued.append((root, False))
        while self.queued:
            value, shared = self.queued.popleft()
            if self._is_new(value):
                self._search(value, shared=shared)
            if len(self.seen) > _ENOUGH:
                raise NotTraceable(_too_much(self.parts))

    def _is_new(self, value: Any) -> bool:
        if issubclass(type(value), Tensor) or id(value) in self.seen:
            return False
        self.seen[id(value)] = value
        return True

    def _search(self, value: Any, *, shared: bool) -> None:
        """Add the parts of an object, and queue the objects it leads to.

        Args:
            value: the object.
            shared: whether it is a global. Functions in globals are not searched, because a
                library's registries lead to the whole library.
        """
        kind = type(value)
        if is_empty(value) and (parts := parts_of_empty(value)):
            self.parts += parts
        elif issubclass(kind, type):
            self._search_class(value)
        elif issubclass(kind, types.ModuleType):
            self._search_file(value)
        elif kind is tuple:
            self._queue(value, shared=shared)
        elif kind in weakref.ProxyTypes:  # a proxy claims its referent's class
            self._queue(_referents(value), shared=shared)
        else:
            self._search_object(value, shared=shared)

    def _search_object(self, value: Any, *, shared: bool) -> None:
        parts = parts_of(value)
        if not parts and not _is_closed(value):
            parts = attributes_of(value)
            self._search_classes(type(value))
            if isinstance(value, nn.Module):
                self.own_packages.add(package_of(type(value).__module__))
        self.parts += parts
        shared = shared and not isinstance(value, nn.Module | types.FunctionType)
        for part in parts:
            if not part.plain:
                self._queue(part.contents, shared=shared)
        if links := _links(value):
            self._queue(links, shared=shared)
        if isinstance(value, types.FunctionType):
            self._search_globals(value)

    def _queue(self, values: Iterable[Any], *, shared: bool) -> None:
        changing = [v for v in values if type(v) not in ATOMS and not _is_fixed(v)]
        self.queued += [(v, shared) for v in changing if not (shared and _is_library(v))]

    def _search_classes(self, kind: type, *, shared: bool = False) -> None:
        """Search a class, its bases, and its metaclass.

        Args:
            kind: the class.
            shared: whether to skip its functions.
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
                self._queue(part.contents, shared=shared)

    def _search_class(self, kind: type) -> None:
        """Search a class that an object refers to, if it belongs to the user or the model."""
        if self._is_own(kind.__module__):
            self._search_classes(kind, shared=is_installed(package_of(kind.__module__)))

    def _search_file(self, file: types.ModuleType) -> None:
        """Search a Python module that an object holds, if it belongs to the user."""
        name = vars(file).get("__name__")
        if self._is_own(name) and not is_installed(package_of(name)):
            self._add(file_of(vars(file)))

    def _is_own(self, name: Any) -> bool:
        package = package_of(name)
        own = package in self.own_packages or not is_installed(package)
        return own and package not in FOREIGN

    def _add(self, part: Part) -> None:
        self.parts.append(part)
        self._queue(part.contents, shared=True)

    def _search_globals(self, function: types.FunctionType) -> None:
        """Search the globals that a function reads, in its own module and in others."""
        if is_foreign(function):
            return
        for code in codes_of(function.__code__):
            reads = Reads(function, code)
            for space, names in reads.written():
                self.parts.append(file_of(space) if names is None else globals_of(space, names))
            values = reads.values()
            near = [v for v in values if is_a(v, (types.FunctionType, type))]
            near = [v for v in near if is_near(v.__module__, function.__module__)]
            self.queued += [(value, False) for value in near]
            self._queue(values, shared=True)


def _is_fixed(value: Any) -> bool:
    """Return whether a value is a tuple of immutable objects, as keys often are."""
    return type(value) is tuple and ATOMS.issuperset(map(type, value))


def _is_library(value: Any) -> bool:
    """Return whether a value is code: a function, also wrapped, class, module, or built-in."""
    if is_a(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
        return value.__self__ is None or is_a(value.__self__, _LIBRARY)
    # If those were searched as globals, their functions would be skipped for good.
    return is_a(value, _LIBRARY) or is_a(value, _WRAPPED)


def _links(value: Any) -> list[Any]:
    """List the objects that an object refers to in ways that cannot be written."""
    if type(value) in _WITHOUT_LINKS:  # the most common case
        return []
    for kind, links in _LINKS:
        if isinstance(value, kind):
            return links(value)
    # A subclass of list or dict has attributes as well.
    attributes = dict_of(value) if isinstance(value, dict | list | set) else None
    return [] if attributes is None else [attributes]


def is_a(value: Any, kinds: Any) -> bool:
    """Run `isinstance` without using the value's ``__class__``, which may lie or raise."""
    return issubclass(type(value), kinds)


def _referents(proxy: Any) -> list[Any]:
    """List the referent of a weak proxy; empty if it is gone or cannot be reached."""
    try:
        return [proxy.__reduce_ex__.__self__]
    except (ReferenceError, AttributeError):
        return []


_LINKS: list[tuple[Any, Callable[[Any], list[Any]]]] = [
    # A subclass may have another length, or none.
    (tuple, lambda v: [*tuple.__iter__(v)]),
    (frozenset, lambda v: [*frozenset.__iter__(v)]),
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


_WITHOUT_LINKS = {dict, list, set}


def _is_closed(value: Any) -> bool:
    """Return whether an object is foreign, or may be changed by others meanwhile."""
    if isinstance(value, (nn.Module, *_PLAIN)):
        return False
    return isinstance(value, (tuple, *_ALIVE)) or is_foreign(type(value))


def _too_much(parts: list[Part]) -> str:
    kinds = Counter(type(part.owner).__qualname__ for part in parts)
    most = ", ".join(f"{count} of type {kind}" for kind, count in kinds.most_common(3))
    return (
        f"it can reach too many objects to restore after a dry run: more than {_ENOUGH} ({most}). "
        f"Keep such data in tensors or arrays, or where its modules and their code do not refer to "
        f"it"
    )
