"""Find and restore a criterion's state: attributes, buffers, variables of enclosing functions."""

import functools
import inspect
import operator
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import Tensor, nn

from manifold_mixup._target.losses import Criterion, eager

# If a criterion refers to a network, not every attribute can be watched at every step.
_FEW = 32
_MANY = 1000  # larger containers count as data
_MANY_INSIDE = 10 * _MANY  # so do all that are inside others, if they hold more together
_DEEP = 4  # maximal depth of the search
# No subclasses: some refuse changes, and others have more state than their items.
_CONTAINERS = {list, dict, set, deque, OrderedDict, defaultdict, Counter}


class Namespace:
    """A namespace that a criterion can change: its path for messages, and the mapping itself."""

    def __init__(self, path: str, variables: MutableMapping[str, Any]) -> None:
        self.path, self.variables = path, variables
        self.containers: list[Any] = []  # among the latest contents
        self._latest: dict[str, Any] | None = None
        self._tensors: list[tuple[str, Tensor]] = []

    def contents(self) -> tuple[dict[str, Any], list[tuple[str, Tensor]]]:
        """Return its contents, and its tensors (which count writes) with their paths."""
        if self._latest is None or not _same(self.variables, self._latest):
            self._latest = dict(self.variables)
            self._tensors = [
                (f"{self.path}{name}", value)
                for name, value in self._latest.items()
                if isinstance(value, Tensor) and not value.is_inference()
            ]
            self.containers = [
                value
                for name, value in self._latest.items()
                if type(value) in _CONTAINERS and name not in _of_modules()
            ]
        return self._latest, self._tensors


def tensors_in(namespaces: list[Namespace]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in some namespaces, also parameters and those in containers."""
    for namespace in namespaces:
        for name, value in namespace.variables.items():
            if name == "_parameters":
                named = value.items()
            elif type(value) in _CONTAINERS and name not in _of_modules():
                named = [(name, item) for item in _items_of(value)]
            else:
                named = [(name, value)]
            for own, item in named:
                if isinstance(item, Tensor):
                    yield f"{namespace.path}{own}", item


def _items_of(container: Any) -> Iterator[Any]:
    """Yield what is in a container and in those inside, unless they are data."""
    for one in _with_inner([container]):
        if not _long(one):
            yield from one.values() if isinstance(one, dict) else one


class SavedState:
    """The contents of some namespaces at the time of construction."""

    def __init__(self, namespaces: list[Namespace]) -> None:
        self._saved: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = []
        self._changes: dict[int, dict[str, Any]] = {}  # by index, for changed namespaces
        self._versions: list[tuple[str, Tensor, int]] = []
        self._containers: list[_Items] = []
        self._containers_after: list[_Items] | None = None  # after the first evaluation
        for namespace in namespaces:
            before, tensors = namespace.contents()
            self._saved.append((namespace.variables, before))
            if namespace.containers:
                self._containers += map(_Items, _with_inner(namespace.containers))
            for path, tensor in tensors:
                self._versions.append((path, tensor, tensor._version))

    def written_tensor(self) -> str:
        """Return the name of a tensor that was written in place since; empty if there is none."""
        for name, tensor, version in self._versions:
            if tensor._version != version:
                return name
        return ""

    def restore(self) -> None:
        """Undo all assignments since, and changes of lists, dicts, sets and queues."""
        for variables, before in self._saved:
            _assign(variables, before)
        for items in self._containers:
            items.restore()

    def record_changes(self) -> None:
        """Record the contents of every namespace that has changed for the first time."""
        if self._containers and self._containers_after is None:
            self._containers_after = [items.now() for items in self._containers]
        for index, (variables, before) in enumerate(self._saved):
            if index not in self._changes and not _same(variables, before):
                self._changes[index] = dict(variables)

    def assign_changes(self) -> None:
        """Assign the recorded contents."""
        for index, after in self._changes.items():
            _assign(self._saved[index][0], after)
        for items in self._containers_after or ():
            items.restore()


class _Items:
    """The items of a list, dict, set or queue, from ``start`` on.

    A long list is data, or a log that grows: only what is appended to it is undone.
    """

    def __init__(self, container: Any, start: int | None = None) -> None:
        self._container = container
        if start is None:
            start = len(container) if isinstance(container, list) and _long(container) else 0
        self._start = start
        self._items: Any = None
        if isinstance(container, list):
            self._items = container[start:]
        elif isinstance(container, deque) or not _long(container):
            self._items = container.copy()

    def now(self) -> "_Items":
        """Return the items that the container has now."""
        return _Items(self._container, self._start)

    def restore(self) -> None:
        """Give the container these items again; one with these items may be in a loop."""
        if self._items is None or self._unchanged():
            return
        if isinstance(self._container, list):
            self._container[self._start :] = self._items
        elif isinstance(self._container, deque):
            self._container.clear()
            self._container.extend(self._items)
        else:
            self._container.clear()
            self._container.update(self._items)

    def _unchanged(self) -> bool:
        """Return whether the container holds the same objects, in the same order."""
        now, before = self._container, self._items
        if len(now) - self._start != len(before):
            return False
        if isinstance(now, set):
            return bool(now == before)
        if isinstance(now, dict):
            same = all(map(operator.is_, now.values(), before.values()))
            return same and all(map(operator.is_, now, before))
        return all(map(operator.is_, now[self._start :] if self._start else now, before))


def _with_inner(containers: list[Any]) -> list[Any]:
    """List containers and those inside, such as a queue for each class, unless they are data."""
    found = {id(one): one for one in containers}
    level = containers
    for _ in range(_DEEP):
        level = [
            value
            for one in level
            if not _long(one)
            for value in (one.values() if isinstance(one, dict) else one)
            if type(value) in _CONTAINERS and id(value) not in found
        ]
        if not level or sum(map(_copied, level)) > _MANY_INSIDE:
            break
        found.update((id(one), one) for one in level)
    return list(found.values())


def _copied(container: Any) -> int:
    """Return how many items `_Items` keeps of a container."""
    whole = isinstance(container, deque) or not _long(container)
    return 1 + (len(container) if whole else 0)


def _long(container: Any) -> bool:
    return len(container) > _MANY


@functools.cache
def _of_modules() -> frozenset[str]:
    """Return the names of the attributes that every module has, such as its hooks."""
    return frozenset(vars(nn.Module()))


def _assign(variables: MutableMapping[str, Any], values: dict[str, Any]) -> None:
    if _same(variables, values):
        return
    for name in [name for name in variables if name not in values]:
        del variables[name]
    for name, value in values.items():
        if name not in variables or variables[name] is not value:
            variables[name] = value


def _same(variables: MutableMapping[str, Any], before: dict[str, Any]) -> bool:
    if len(variables) != len(before):
        return False
    for name, value in before.items():
        if name not in variables or variables[name] is not value:
            return False
    return True


class _Cells(MutableMapping[str, Any]):
    """The variables that a function shares with its enclosing function."""

    def __init__(self, function: types.FunctionType) -> None:
        names = function.__code__.co_freevars
        self._cells = dict(zip(names, function.__closure__ or (), strict=True))

    def __getitem__(self, name: str) -> Any:
        try:
            return self._cells[name].cell_contents
        except ValueError as error:  # not assigned yet
            raise KeyError(name) from error

    def __setitem__(self, name: str, value: Any) -> None:
        self._cells[name].cell_contents = value

    def __delitem__(self, name: str) -> None:
        del self._cells[name].cell_contents

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._cells if self._filled(name))

    def __len__(self) -> int:
        return sum(map(self._filled, self._cells))

    def _filled(self, name: str) -> bool:
        try:
            return bool(self._cells[name]) or self._cells[name].cell_contents is None
        except ValueError:
            return False


def namespace_of(criterion: Criterion) -> Namespace | None:
    """Return the attributes of a criterion; None if it has none of its own."""
    variables = getattr(criterion, "__dict__", None)
    return Namespace("", variables) if isinstance(variables, dict) else None


def namespaces(criterion: Criterion) -> list[Namespace]:
    """List the namespaces in which a criterion, or an object it refers to, may keep state.

    The search goes from a function to its enclosing variables and the modules it names, from a
    partial or bound method to its contents, and from an object to its attributes.
    """
    found: dict[int, Namespace] = {}
    stack: list[tuple[str, Any, int]] = [("", criterion, 0)]
    seen: dict[int, Any] = {}
    while stack:
        path, value, depth = stack.pop()
        if id(value) in seen or depth > _DEEP:
            continue
        seen[id(value)] = value
        for namespace in _namespaces_in(path, value):
            found.setdefault(id(namespace.variables), namespace)
        stack += [(name, inner, depth + 1) for name, inner in _references_of(path, value)]
    whole = list(found.values())
    return whole[:_FEW] + [namespace for namespace in whole[_FEW:] if _has_tensors(namespace)]


def _has_tensors(namespace: Namespace) -> bool:
    return any(isinstance(value, Tensor) for value in namespace.variables.values())


def _namespaces_in(path: str, value: Any) -> Iterator[Namespace]:
    if isinstance(value, nn.Module):
        for below, module in eager(value).named_modules():
            prefix = f"{path}{below}." if below else path
            yield Namespace(prefix, vars(module))
            if module._buffers:
                yield Namespace(prefix, module._buffers)
    elif isinstance(value, types.FunctionType):
        if value.__closure__:
            yield Namespace(path, _Cells(value))
    elif not isinstance(value, functools.partial) and _is_plain(value):
        yield Namespace(path, vars(value))
    if given := _given_containers(value):
        yield Namespace(path, given)


def _references_of(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects a value refers to, each with the prefix for its names."""
    if inspect.ismethod(value):
        yield path, value.__self__
    elif isinstance(value, functools.partial):
        yield path, value.func
        yield from _searchable(path, _bound(value))
    elif isinstance(value, types.FunctionType):
        yield from _searchable(path, dict(_Cells(value)))
        yield from _searchable(path, _defaults(value))
        named = {name: value.__globals__.get(name) for name in value.__code__.co_names}
        yield from _searchable(path, {k: v for k, v in named.items() if isinstance(v, nn.Module)})
    elif isinstance(value, nn.Module):
        for below, module in eager(value).named_modules():
            yield from _searchable(f"{path}{below}." if below else path, vars(module))
    elif isinstance(value, tuple | list | dict):
        yield from _searchable(path, value if isinstance(value, dict) else dict(enumerate(value)))
    elif _is_plain(value):
        yield from _searchable(path, vars(value))


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    return dict(zip(reversed(names), reversed(values), strict=False)) | (
        function.__kwdefaults__ or {}
    )


def _bound(function: "functools.partial[Any]") -> dict[Any, Any]:
    return dict(enumerate(function.args)) | function.keywords


def _given_containers(value: Any) -> dict[str, Any]:
    """Return the containers among the defaults of a function, or what a partial is given."""
    given: dict[Any, Any] = {}
    if isinstance(value, functools.partial):
        given = _bound(value)
    elif isinstance(value, types.FunctionType):
        given = _defaults(value)
    return {str(name): one for name, one in given.items() if type(one) in _CONTAINERS}


def _searchable(path: str, values: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    if len(values) > _MANY:
        return
    for name, value in values.items():
        if isinstance(value, tuple | list | dict | nn.Module) or callable(value):
            yield f"{path}{name}.", value


def _is_plain(value: Any) -> bool:
    """Return whether a value is an object with attributes, of a user's class."""
    kind = type(value)
    if isinstance(value, type | types.ModuleType | tuple | list | dict):
        return False
    if not isinstance(getattr(value, "__dict__", None), dict):
        return False
    return kind.__module__.split(".")[0] not in ("torch", "builtins", "functools", "manifold_mixup")
