"""List and restore what an object holds: a read and a write function for each kind of object."""

import contextvars
import functools
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._dry_run.caches import Cache, entries_of, is_bounded
from manifold_mixup._dry_run.states import (
    MEMOIZED,
    STATES,
    TWINS,
    Access,
    CopiedState,
    access_in_numpy,
)

_MISSING = object()
# Classes whose objects never change.
ATOMS: set[type] = {str, bytes, int, float, complex, bool, type(None), range, slice, CopiedState}
ATOMS |= {types.CodeType, torch.dtype, torch.device, torch.Size}
_REPLACEABLE = (Tensor, tuple)


@dataclass(slots=True)
class Part:
    """The saved content of one object that can change.

    Attributes:
        owner: the object.
        read: lists what the object holds.
        write: restores the object from such a list.
        contents: the saved list.
        replaceable: the places of what it holds that stand-ins can replace: tensors, iterators.
        plain: whether all objects it holds are immutable.
        empty: whether it is a container of Python's that holds nothing.
    """

    owner: Any
    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], None]
    contents: list[Any]
    replaceable: tuple[int, ...]
    plain: bool
    empty: bool = False


def is_empty(value: Any) -> bool:
    """Return whether a value is a container of Python's that holds nothing."""
    return type(value) in _CONTAINERS and not value


def parts_of_empty(value: Any) -> list[Part] | None:
    """List the parts of an empty container; None if it has attributes."""
    kind = type(value)
    part = Part(value, *_CONTAINERS[kind], [], replaceable=(), plain=True, empty=True)
    if kind is not OrderedDict:
        return [part]
    if attributes := vars(value):
        return None
    return [part, Part(attributes, *_DICT, [], replaceable=(), plain=True, empty=True)]


def parts_of(value: Any) -> list[Part]:
    """List the parts of one object that can change, not of the objects it holds."""
    if type(value) is Cache:
        return _cached_results(value)
    access = _access(value)
    return [] if access is None else [_part(value, *access)]


def _access(value: Any) -> Access | None:
    if type(value) in _EXACT:  # the most common case
        return _EXACT[type(value)]
    for kind, access in _KINDS:
        if isinstance(value, kind):
            return access
    numpy = sys.modules.get("numpy")
    return None if numpy is None else access_in_numpy(numpy, value)


def _cached_results(cache: Any) -> list[Part]:
    """List the cached results of a memoized function."""
    entries = None if is_bounded(cache) else entries_of(cache)
    return [_part(cache, *MEMOIZED) if entries is None else _part(entries, *_DICT)]


def attributes_of(value: Any) -> list[Part]:
    """List the attributes of an object: those in its ``__dict__``, in slots, and in C++."""
    parts = []
    if (attributes := dict_of(value)) is not None:
        parts.append(_part(attributes, *_DICT))
    if names := _slots(type(value)):
        read = functools.partial(_read_names, object.__getattribute__, names)
        parts.append(_part(value, read, functools.partial(_write_slots, names)))
    if isinstance(value, nn.Module):
        parts.append(_part(value, _read_class, _write_class))  # a lazy module changes its class
    if isinstance(value, torch.jit.ScriptModule):
        parts += [_part(module, _read_script, _write_script) for module in _scripts(value._c)]
    return parts


def dict_of(value: Any) -> dict[str, Any] | None:
    """Return the ``__dict__`` of an object; None if it has none or does not show it."""
    try:
        attributes = value.__dict__
    except Exception:  # a user's property can raise anything
        return None
    return attributes if isinstance(attributes, dict) else None


def attributes_of_class(kind: type) -> Part:
    """List the attributes of a class: caches, counters, functions."""
    return _part(kind, _read_kind, _write_kind)


def globals_of(space: dict[str, Any], names: tuple[str, ...]) -> Part:
    """List the values of some names in a module's namespace."""
    read = functools.partial(_read_names, dict.__getitem__, names)
    return _part(space, read, functools.partial(_write_globals, names))


def file_of(space: dict[str, Any]) -> Part:
    """List all values in a module's namespace."""
    return _part(space, _read_file, _write_file)


def _part(owner: Any, read: Callable[..., Any], write: Callable[..., None]) -> Part:
    contents = read(owner)
    kinds = set(map(type, contents))
    plain = kinds <= ATOMS
    trading = set() if plain else set(filter(is_replaceable, kinds))
    replaceable = (
        tuple(n for n, value in enumerate(contents) if type(value) in trading) if trading else ()
    )
    return Part(owner, read, write, contents, replaceable, plain)


def is_replaceable(kind: type) -> bool:
    """Return whether stand-ins can replace objects of a class, or objects they hold."""
    return issubclass(kind, _REPLACEABLE) or kind in TWINS


def _read_dict(owner: dict[Any, Any]) -> list[Any]:
    base = OrderedDict if isinstance(owner, OrderedDict) else dict  # bypass overrides in subclasses
    return [*base.keys(owner), *base.values(owner)]


def _write_dict(owner: dict[Any, Any], contents: list[Any]) -> None:
    base = OrderedDict if isinstance(owner, OrderedDict) else dict
    keys, values = _halves(contents)
    now = list(base.keys(owner))
    if len(now) != len(keys) or not all(map(is_, now, keys)):
        base.clear(owner)
    for key, value in zip(keys, values, strict=True):
        base.__setitem__(owner, key, value)


def _halves(contents: list[Any]) -> tuple[list[Any], list[Any]]:
    return contents[: len(contents) // 2], contents[len(contents) // 2 :]


def _write_list(owner: list[Any], contents: list[Any]) -> None:
    list.__setitem__(owner, slice(None), contents)


def _write_set(owner: set[Any], contents: list[Any]) -> None:
    set.clear(owner)
    set.update(owner, contents)


def _write_deque(owner: deque[Any], contents: list[Any]) -> None:
    deque.clear(owner)
    deque.extend(owner, contents)


def _read_cell(owner: types.CellType) -> list[Any]:
    try:
        return [owner.cell_contents]
    except ValueError:  # the cell is still empty
        return [_MISSING]


def _write_cell(owner: types.CellType, contents: list[Any]) -> None:
    if contents[0] is not _MISSING:
        owner.cell_contents = contents[0]
    elif _read_cell(owner)[0] is not _MISSING:
        del owner.cell_contents


def _read_defaults(owner: types.FunctionType) -> list[Any]:
    return [owner.__defaults__]


def _write_defaults(owner: types.FunctionType, contents: list[Any]) -> None:
    owner.__defaults__ = contents[0]


def _read_partial(owner: "functools.partial[Any]") -> list[Any]:
    return [owner.args]


def _write_partial(owner: "functools.partial[Any]", contents: list[Any]) -> None:
    owner.__setstate__((owner.func, contents[0], owner.keywords, vars(owner)))  # type: ignore[attr-defined]


def _read_variable(owner: "contextvars.ContextVar[Any]") -> list[Any]:
    return [owner.get(_MISSING)]


def _write_variable(owner: "contextvars.ContextVar[Any]", contents: list[Any]) -> None:
    if contents[0] is not _MISSING:  # otherwise it vanishes with the dry run's context
        owner.set(contents[0])


def _read_class(owner: Any) -> list[Any]:
    return [type(owner)]


def _write_class(owner: Any, contents: list[Any]) -> None:
    owner.__class__ = contents[0]


def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [_mangled(n, base) for n in ([slots] if isinstance(slots, str) else slots)]
    return tuple(name for name in names if _is_slot(kind, name))


def _is_slot(kind: type, name: str) -> bool:
    """Return whether objects of a class keep this attribute in a slot; a subclass may hide it."""
    return type(getattr(kind, name, None)) is types.MemberDescriptorType


def _mangled(name: str, kind: type) -> str:
    """Return the mangled form of a private name in a class."""
    private = name.startswith("__") and not name.endswith("__")
    owner = kind.__name__.lstrip("_")
    return f"_{owner}{name}" if private and owner else name


def _read_names(get: Callable[[Any, str], Any], names: tuple[str, ...], owner: Any) -> list[Any]:
    contents = []
    for name in names:
        try:
            contents.append(get(owner, name))
        except (AttributeError, KeyError):
            contents.append(_MISSING)
    return contents


def _write_slots(names: tuple[str, ...], owner: Any, contents: list[Any]) -> None:
    for name, value in zip(names, contents, strict=True):
        if value is not _MISSING:
            object.__setattr__(owner, name, value)
        elif _read_names(object.__getattribute__, (name,), owner)[0] is not _MISSING:
            object.__delattr__(owner, name)


def _write_globals(names: tuple[str, ...], owner: dict[str, Any], contents: list[Any]) -> None:
    for name, value in zip(names, contents, strict=True):
        if value is not _MISSING:
            owner[name] = value
        elif not _is_import(name, owner.get(name)):  # modules are imported only once
            owner.pop(name, None)


def _read_file(owner: dict[str, Any]) -> list[Any]:
    own = {name: value for name, value in owner.items() if not _is_import(name, value)}
    return [*own.keys(), *own.values()]


def _is_import(name: str, value: Any) -> bool:
    return name.startswith("__") or type(value) is types.ModuleType


def _write_file(owner: dict[str, Any], contents: list[Any]) -> None:
    wanted = dict(zip(*_halves(contents), strict=True))
    for name in _halves(_read_file(owner))[0]:
        if name not in wanted:
            del owner[name]
    owner.update(wanted)


def _read_kind(owner: type) -> list[Any]:
    own = {name: value for name, value in vars(owner).items() if _is_attribute(name, value)}
    return [*own.keys(), *own.values()]


def _is_attribute(name: str, value: Any) -> bool:
    internal = (types.GetSetDescriptorType, types.MemberDescriptorType)
    return not name.startswith(("__", "_abc_")) and not issubclass(type(value), internal)


def _write_kind(owner: type, contents: list[Any]) -> None:
    wanted = dict(zip(*_halves(contents), strict=True))
    for name in _halves(_read_kind(owner))[0]:
        if name not in wanted:
            delattr(owner, name)
    for name, value in wanted.items():
        if vars(owner).get(name, _MISSING) is not value:
            setattr(owner, name, value)


def _scripts(module: Any) -> Iterator[Any]:
    """Yield a C++ module and its submodules."""
    yield module
    children: Any = torch._C.ModuleDict(module)
    for _, child in children.items():
        yield from _scripts(child)


def _script_slots(owner: Any) -> list[tuple[str, Any]]:
    kinds: list[Any] = [torch._C.ParameterDict, torch._C.BufferDict]
    tensors = [item for kind in kinds for item in kind(owner).items()]
    return tensors + [("training", owner.getattr("training"))] * owner.hasattr("training")


def _read_script(owner: Any) -> list[Any]:
    return [value for _, value in _script_slots(owner)]


def _write_script(owner: Any, contents: list[Any]) -> None:
    for (name, _), value in zip(_script_slots(owner), contents, strict=True):
        owner.setattr(name, value)


_DICT: Access = (_read_dict, _write_dict)
_KINDS: list[tuple[type, Access | None]] = [
    (Tensor, None),
    (dict, _DICT),
    (list, (list, _write_list)),
    (set, (list, _write_set)),
    (deque, (list, _write_deque)),
    (types.CellType, (_read_cell, _write_cell)),
    (types.FunctionType, (_read_defaults, _write_defaults)),
    (functools.partial, (_read_partial, _write_partial)),
    (contextvars.ContextVar, (_read_variable, _write_variable)),
    *STATES,
]
_EXACT = dict(_KINDS)
# Most of a module's containers are empty: those of its hooks.
_CONTAINERS: dict[type, Access] = {
    dict: _DICT,
    OrderedDict: _DICT,
    list: (list, _write_list),
    set: (list, _write_set),
}
