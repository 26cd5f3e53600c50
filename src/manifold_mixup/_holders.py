"""How what an object holds is listed, and how it is given back: a pair for each kind of object."""

import functools
import random
import sys
import types
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

_MISSING = object()


@dataclass(slots=True)
class Part:
    """What can change of one object, as it was.

    Attributes:
        owner: the object.
        read: lists what it holds.
        write: gives it back what such a list says.
        held: the list, as it was.
    """

    owner: Any
    read: Callable[[Any], list[Any]]
    write: Callable[[Any, list[Any]], None]
    held: list[Any]


def parts_of(value: Any) -> list[Part]:
    """List what can change of one object, whatever is behind it."""
    for kind, access in _KINDS:
        if isinstance(value, kind):
            return [] if access is None else [_part(value, *access)]
    if (numpy := sys.modules.get("numpy")) is not None:
        for kind, access in _numpy_kinds(numpy):
            if isinstance(value, kind):
                return [_part(value, *access)]
    return []


def attributes_of(value: Any) -> list[Part]:
    """List the attributes of an object: those in its ``__dict__``, in slots, and in C++."""
    parts = []
    if (attributes := dict_of(value)) is not None:
        parts.append(_part(attributes, *_DICT))
    if names := _slots(type(value)):
        read = functools.partial(_read_names, object.__getattribute__, names)
        parts.append(_part(value, read, functools.partial(_write_slots, names)))
    if isinstance(value, nn.Module):
        parts.append(_part(value, _read_class, _write_class))  # a lazy module takes on another
    if isinstance(value, torch.jit.ScriptModule):
        parts += [_part(module, _read_script, _write_script) for module in _scripts(value._c)]
    return parts


def dict_of(value: Any) -> dict[str, Any] | None:
    """Return the ``__dict__`` of an object, if it has one and shows it."""
    try:
        attributes = value.__dict__
    except Exception:  # a property of the user's can raise whatever it likes
        return None
    return attributes if isinstance(attributes, dict) else None


def attributes_of_class(kind: type) -> Part:
    """List what a class holds: caches, counters, functions."""
    return _part(kind, _read_kind, _write_kind)


def globals_of(space: dict[str, Any], names: tuple[str, ...]) -> Part:
    """List what some names mean in a file."""
    read = functools.partial(_read_names, dict.__getitem__, names)
    return _part(space, read, functools.partial(_write_globals, names))


def _part(owner: Any, read: Callable[..., Any], write: Callable[..., None]) -> Part:
    return Part(owner, read, write, read(owner))


def _read_dict(owner: dict[Any, Any]) -> list[Any]:
    base = OrderedDict if isinstance(owner, OrderedDict) else dict  # whatever a subclass does
    return [*base.keys(owner), *base.values(owner)]


def _write_dict(owner: dict[Any, Any], held: list[Any]) -> None:
    base = OrderedDict if isinstance(owner, OrderedDict) else dict
    keys, values = _halves(held)
    now = list(base.keys(owner))
    if len(now) != len(keys) or not all(map(is_, now, keys)):
        base.clear(owner)
    for key, value in zip(keys, values, strict=True):
        base.__setitem__(owner, key, value)


def _halves(held: list[Any]) -> tuple[list[Any], list[Any]]:
    return held[: len(held) // 2], held[len(held) // 2 :]


def _write_list(owner: list[Any], held: list[Any]) -> None:
    list.__setitem__(owner, slice(None), held)


def _write_set(owner: set[Any], held: list[Any]) -> None:
    set.clear(owner)
    set.update(owner, held)


def _write_deque(owner: deque[Any], held: list[Any]) -> None:
    deque.clear(owner)
    deque.extend(owner, held)


def _read_cell(owner: types.CellType) -> list[Any]:
    try:
        return [owner.cell_contents]
    except ValueError:  # nothing is in it yet
        return [_MISSING]


def _write_cell(owner: types.CellType, held: list[Any]) -> None:
    if held[0] is not _MISSING:
        owner.cell_contents = held[0]
    elif _read_cell(owner)[0] is not _MISSING:
        del owner.cell_contents


def _read_defaults(owner: types.FunctionType) -> list[Any]:
    return [owner.__defaults__]


def _write_defaults(owner: types.FunctionType, held: list[Any]) -> None:
    owner.__defaults__ = held[0]


def _read_partial(owner: "functools.partial[Any]") -> list[Any]:
    return [owner.args]


def _write_partial(owner: "functools.partial[Any]", held: list[Any]) -> None:
    owner.__setstate__((owner.func, held[0], owner.keywords, vars(owner)))  # type: ignore[attr-defined]


def _read_misses(owner: Any) -> list[Any]:
    return [owner.cache_info().misses]


def _write_misses(owner: Any, held: list[Any]) -> None:
    if owner.cache_info().misses > held[0]:
        owner.cache_clear()  # it holds what was made of stand-ins; real calls fill it again


def _read_class(owner: Any) -> list[Any]:
    return [type(owner)]


def _write_class(owner: Any, held: list[Any]) -> None:
    owner.__class__ = held[0]


def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for base in kind.__mro__:
        slots = vars(base).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else list(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _read_names(get: Callable[[Any, str], Any], names: tuple[str, ...], owner: Any) -> list[Any]:
    held = []
    for name in names:
        try:
            held.append(get(owner, name))
        except (AttributeError, KeyError):
            held.append(_MISSING)
    return held


def _write_slots(names: tuple[str, ...], owner: Any, held: list[Any]) -> None:
    for name, value in zip(names, held, strict=True):
        if value is not _MISSING:
            object.__setattr__(owner, name, value)
        elif _read_names(object.__getattribute__, (name,), owner)[0] is not _MISSING:
            object.__delattr__(owner, name)


def _write_globals(names: tuple[str, ...], owner: dict[str, Any], held: list[Any]) -> None:
    for name, value in zip(names, held, strict=True):
        if value is not _MISSING:
            owner[name] = value
        else:
            owner.pop(name, None)


def _read_kind(owner: type) -> list[Any]:
    own = {name: value for name, value in vars(owner).items() if _is_attribute(name, value)}
    return [*own.keys(), *own.values()]


def _is_attribute(name: str, value: Any) -> bool:
    internal = (type, types.GetSetDescriptorType, types.MemberDescriptorType)
    return not name.startswith(("__", "_abc_")) and not isinstance(value, internal)


def _write_kind(owner: type, held: list[Any]) -> None:
    wanted = dict(zip(*_halves(held), strict=True))
    for name in _halves(_read_kind(owner))[0]:
        if name not in wanted:
            delattr(owner, name)
    for name, value in wanted.items():
        if vars(owner).get(name, _MISSING) is not value:
            setattr(owner, name, value)


def _scripts(module: Any) -> Iterator[Any]:
    """Yield a C++ module and those in it."""
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


def _write_script(owner: Any, held: list[Any]) -> None:
    for (name, _), value in zip(_script_slots(owner), held, strict=True):
        owner.setattr(name, value)


class _State:
    """Holds a copy of a state, so that nobody takes it for something that the model holds."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _by_state(read: Callable[[Any], Any], write: Callable[[Any, Any], Any]) -> "_Access":
    """Make a pair for an object that can be asked for a copy of its state."""

    def give_back(owner: Any, held: list[Any]) -> None:
        write(owner, held[0].value)

    return (lambda owner: [_State(read(owner))]), give_back


def _write_array(owner: Any, values: Any) -> None:
    if owner.flags.writeable and owner.shape == values.shape:
        owner[...] = values


def _numpy_kinds(numpy: Any) -> list[tuple[type, "_Access"]]:
    return [
        (numpy.ndarray, _by_state(lambda owner: owner.copy(), _write_array)),
        (numpy.random.Generator, _by_state(_read_bits, _write_bits)),
        (
            numpy.random.RandomState,
            _by_state(lambda owner: owner.get_state(), lambda owner, was: owner.set_state(was)),
        ),
    ]


def _read_bits(owner: Any) -> Any:
    return owner.bit_generator.state


def _write_bits(owner: Any, was: Any) -> None:
    owner.bit_generator.state = was


_Access = tuple[Callable[[Any], list[Any]], Callable[[Any, list[Any]], None]]
_DICT: _Access = (_read_dict, _write_dict)
_KINDS: list[tuple[type, _Access | None]] = [
    (Tensor, None),
    (dict, _DICT),
    (list, (list, _write_list)),
    (set, (list, _write_set)),
    (deque, (list, _write_deque)),
    (types.CellType, (_read_cell, _write_cell)),
    (types.FunctionType, (_read_defaults, _write_defaults)),
    (functools.partial, (_read_partial, _write_partial)),
    (functools._lru_cache_wrapper, (_read_misses, _write_misses)),
    (random.Random, _by_state(random.Random.getstate, random.Random.setstate)),
    (torch.Generator, _by_state(torch.Generator.get_state, torch.Generator.set_state)),
]
