"""Find and restore a criterion's state: attributes, buffers, variables of enclosing functions."""

import functools
import inspect
import types
from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import Tensor, nn

from manifold_mixup._target.losses import Criterion, eager

# If a criterion refers to a network, not every attribute can be watched at every step.
_FEW = 32
_MANY = 1000  # larger containers count as data
_DEEP = 4  # maximal depth of the search


class Holder:
    """A namespace that a criterion can change: its path for messages, and the mapping itself."""

    def __init__(self, path: str, held: MutableMapping[str, Any]) -> None:
        self.path, self.held = path, held
        self._latest: dict[str, Any] | None = None
        self._tensors: list[tuple[str, Tensor]] = []

    def look(self) -> tuple[dict[str, Any], list[tuple[str, Tensor]]]:
        """Return its contents, and its tensors (which count writes) with their paths."""
        if self._latest is None or not _same(self.held, self._latest):
            self._latest = dict(self.held)
            self._tensors = [
                (f"{self.path}{name}", value)
                for name, value in self._latest.items()
                if isinstance(value, Tensor) and not value.is_inference()
            ]
        return self._latest, self._tensors


class SavedState:
    """The contents of some namespaces at the time of construction."""

    def __init__(self, holders: list[Holder]) -> None:
        self._held: list[tuple[MutableMapping[str, Any], dict[str, Any]]] = []
        self._after: dict[int, dict[str, Any]] = {}  # by index, for changed namespaces
        self._versions: list[tuple[str, Tensor, int]] = []
        for holder in holders:
            before, tensors = holder.look()
            self._held.append((holder.held, before))
            for path, tensor in tensors:
                self._versions.append((path, tensor, tensor._version))

    def written(self) -> str:
        """Return the name of a tensor that was written in place since; empty if there is none."""
        for name, tensor, version in self._versions:
            if tensor._version != version:
                return name
        return ""

    def restore(self) -> None:
        """Undo all assignments since."""
        for held, before in self._held:
            _assign(held, before)

    def note(self) -> None:
        """Remember the contents of every namespace that has changed for the first time."""
        for index, (held, before) in enumerate(self._held):
            if index not in self._after and not _same(held, before):
                self._after[index] = dict(held)

    def settle(self) -> None:
        """Assign the remembered contents."""
        for index, after in self._after.items():
            _assign(self._held[index][0], after)


def _assign(held: MutableMapping[str, Any], values: dict[str, Any]) -> None:
    if _same(held, values):
        return
    for name in [name for name in held if name not in values]:
        del held[name]
    for name, value in values.items():
        if name not in held or held[name] is not value:
            held[name] = value


def _same(held: MutableMapping[str, Any], before: dict[str, Any]) -> bool:
    if len(held) != len(before):
        return False
    for name, value in before.items():  # noqa: SIM110 - runs at every step; a generator is slower
        if name not in held or held[name] is not value:
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


def holder_of(criterion: Criterion) -> Holder | None:
    """Return the attributes of a criterion; None if it has none of its own."""
    held = getattr(criterion, "__dict__", None)
    return Holder("", held) if isinstance(held, dict) else None


def holders(criterion: Criterion) -> list[Holder]:
    """List the namespaces in which a criterion, or an object it refers to, may keep state.

    The search goes from a function to its enclosing variables and the modules it names, from a
    partial or bound method to its contents, and from an object to its attributes.
    """
    found: dict[int, Holder] = {}
    stack: list[tuple[str, Any, int]] = [("", criterion, 0)]
    seen: dict[int, Any] = {}
    while stack:
        path, value, depth = stack.pop()
        if id(value) in seen or depth > _DEEP:
            continue
        seen[id(value)] = value
        for holder in _own(path, value):
            found.setdefault(id(holder.held), holder)
        stack += [(name, inner, depth + 1) for name, inner in _inside(path, value)]
    whole = list(found.values())
    return whole[:_FEW] + [holder for holder in whole[_FEW:] if _has_tensors(holder)]


def _has_tensors(holder: Holder) -> bool:
    return any(isinstance(value, Tensor) for value in holder.held.values())


def _own(path: str, value: Any) -> Iterator[Holder]:
    if isinstance(value, nn.Module):
        for below, module in eager(value).named_modules():
            prefix = f"{path}{below}." if below else path
            yield Holder(prefix, vars(module))
            if module._buffers:
                yield Holder(prefix, module._buffers)
    elif isinstance(value, types.FunctionType):
        if value.__closure__:
            yield Holder(path, _Cells(value))
    elif not isinstance(value, functools.partial) and _is_plain(value):
        yield Holder(path, vars(value))


def _inside(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects a value refers to, each with the prefix for its names."""
    if inspect.ismethod(value):
        yield path, value.__self__
    elif isinstance(value, functools.partial):
        yield path, value.func
        yield from _named(path, dict(enumerate(value.args)) | value.keywords)
    elif isinstance(value, types.FunctionType):
        yield from _named(path, dict(_Cells(value)))
        yield from _named(path, _defaults(value))
        named = {name: value.__globals__.get(name) for name in value.__code__.co_names}
        yield from _named(path, {k: v for k, v in named.items() if isinstance(v, nn.Module)})
    elif isinstance(value, nn.Module):
        for below, module in eager(value).named_modules():
            yield from _named(f"{path}{below}." if below else path, vars(module))
    elif isinstance(value, tuple | list | dict):
        yield from _named(path, value if isinstance(value, dict) else dict(enumerate(value)))
    elif _is_plain(value):
        yield from _named(path, vars(value))


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    return dict(zip(reversed(names), reversed(values), strict=False)) | (
        function.__kwdefaults__ or {}
    )


def _named(path: str, values: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
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
