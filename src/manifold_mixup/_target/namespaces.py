"""Find where a criterion keeps state: attributes, buffers, variables of functions and modules."""

import functools
import inspect
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

from torch import Tensor, nn

from manifold_mixup._target.losses import Criterion, eager

# If a criterion refers to a network, not every attribute can be watched at every step.
_FEW = 32
_MOST = 1000  # larger tuples, lists and dicts are not searched
_DEEP = 4  # maximal depth of the search
CONTAINERS = {list, dict, set, deque, OrderedDict, defaultdict, Counter}
"""Those whose changes are undone. No subclasses: some refuse changes, others have more state."""


class Namespace:
    """A namespace that a criterion can change: its path for messages, and the mapping itself."""

    def __init__(self, path: str, variables: MutableMapping[str, Any]) -> None:
        self.path, self.variables = path, variables
        self.containers: list[Any] = []  # among the latest contents
        self._latest: dict[str, Any] | None = None
        self._tensors: list[tuple[str, Tensor]] = []

    def contents(self) -> tuple[dict[str, Any], list[tuple[str, Tensor]]]:
        """Return its contents, and its tensors (which count writes) with their paths."""
        if self._latest is None or not same(self.variables, self._latest):
            self._latest = dict(self.variables)
            self._tensors = [
                (f"{self.path}{name}", value)
                for name, value in self._latest.items()
                if isinstance(value, Tensor) and not value.is_inference()
            ]
            self.containers = [
                value
                for name, value in self._latest.items()
                if type(value) in CONTAINERS and name not in of_modules()
            ]
        return self._latest, self._tensors


@functools.cache
def of_modules() -> frozenset[str]:
    """Return the names of the attributes that every module has, such as its hooks."""
    return frozenset(vars(nn.Module()))


def same(variables: MutableMapping[str, Any], before: dict[str, Any]) -> bool:
    """Return whether a namespace holds the same objects by the same names as before."""
    if len(variables) != len(before):
        return False
    for name, value in before.items():
        if name not in variables or variables[name] is not value:
            return False
    return True


class _Globals(MutableMapping[str, Any]):
    """Variables of the module of a function."""

    def __init__(self, function: types.FunctionType, names: Iterable[str]) -> None:
        self._module, self._names = function.__globals__, list(names)

    def __getitem__(self, name: str) -> Any:
        return self._module[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._module[name] = value

    def __delitem__(self, name: str) -> None:
        del self._module[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if name in self._module)

    def __len__(self) -> int:
        return sum(name in self._module for name in self._names)


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

    The search goes from a function to its enclosing variables, and to the variables, functions and
    `nn.Module` objects of its own module that it names; from a partial or bound method to its
    contents; and from an object to its attributes and what runs when it is called.
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
        yield from _namespaces_of_function(path, value)
    elif not isinstance(value, functools.partial) and _is_plain(value):
        yield Namespace(path, vars(value))
    if given := _given_containers(value):
        yield Namespace(path, given)


def _namespaces_of_function(path: str, function: types.FunctionType) -> Iterator[Namespace]:
    if function.__closure__:
        yield Namespace(path, _Cells(function))
    if names := list(_global_state(function)):
        yield Namespace(path, _Globals(function, names))


def _references_of(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects a value refers to, each with the prefix for its names."""
    if inspect.ismethod(value):
        yield path, value.__self__
        yield path, value.__func__
    elif isinstance(value, functools.partial):
        yield path, value.func
        yield from _searchable(path, _bound(value))
    elif isinstance(value, types.FunctionType):
        yield from _references_of_function(path, value)
    elif isinstance(value, nn.Module):
        for below, module in eager(value).named_modules():
            yield from _searchable(f"{path}{below}." if below else path, vars(module))
            yield path, type(module).forward
    elif isinstance(value, tuple | list | dict):
        yield from _searchable(path, value if isinstance(value, dict) else dict(enumerate(value)))
    elif _is_plain(value):
        yield from _searchable(path, vars(value))
        yield path, type(value).__call__ if callable(value) else None


@functools.lru_cache(maxsize=256)  # some wrap a criterion at every step
def _names_in(code: types.CodeType) -> tuple[Sequence[str], Collection[str]]:
    """List the names that code uses, other than local ones, and those that it assigns of them."""
    import dis  # takes time, and few criteria are functions

    used, assigned = list(code.co_names), set()
    for one in dis.get_instructions(code):
        if one.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            assigned.add(one.argval)
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            used_inside, assigned_inside = _names_in(inner)
            used += used_inside
            assigned |= set(assigned_inside)
    return tuple(dict.fromkeys(used)), assigned


def _global_state(function: types.FunctionType) -> Iterator[str]:
    """Yield the variables of its module that a user's function assigns, or that it can change."""
    if not _is_users(function):
        return
    names, assigned = _names_in(function.__code__)
    for name in names:
        value = function.__globals__.get(name)
        if name in assigned or isinstance(value, Tensor) or type(value) in CONTAINERS:
            yield name


def _is_of_module(value: Any, function: types.FunctionType) -> bool:
    """Return whether a value is a function of the same module, of a user."""
    return (
        isinstance(value, types.FunctionType)
        and value.__globals__ is function.__globals__
        and _is_users(value)
    )


def _references_of_function(path: str, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from _searchable(path, dict(_Cells(function)))
    yield from _searchable(path, _defaults(function))
    yield from _named_by(path, function)


def _named_by(path: str, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the modules that a function names, and the functions of its own module."""
    for name in _names_in(function.__code__)[0]:
        value = function.__globals__.get(name)
        if isinstance(value, nn.Module):
            yield f"{path}{name}.", value
        elif _is_of_module(value, function):
            yield path, value


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
    return {str(name): one for name, one in given.items() if type(one) in CONTAINERS}


def _searchable(path: str, values: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    if len(values) > _MOST:
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
    return _is_users(kind)


def _is_users(value: Any) -> bool:
    """Return whether a class or a function is not of a library whose state we know."""
    return str(value.__module__).partition(".")[0] not in _LIBRARIES


_LIBRARIES = {"torch", "builtins", "functools", "manifold_mixup"}
