"""Save and restore objects by a copy of their state, and copy iterators."""

import array
import ast
import copy
import ctypes
import itertools
import random
from collections.abc import Callable
from typing import Any

import torch

from manifold_mixup._dry_run.caches import forget_new, read_keys

Access = tuple[Callable[[Any], list[Any]], Callable[[Any, list[Any]], None]]


class CopiedState:
    """Wraps a copy of a state, to distinguish it from objects that the model holds."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def by_state(read: Callable[[Any], Any], write: Callable[[Any, Any], Any]) -> Access:
    """Return the read and write functions for an object that can copy its state."""

    def give_back(owner: Any, contents: list[Any]) -> None:
        write(owner, contents[0].value)

    return (lambda owner: [CopiedState(read(owner))]), give_back


def _write_bytes(owner: bytearray, was: bytes) -> None:
    if owner != was:
        owner[:] = was


def _write_numbers(owner: "array.array[Any]", was: "array.array[Any]") -> None:
    if owner.tobytes() != was.tobytes():
        owner[:] = was


def _read_memory(owner: Any) -> bytes | None:
    """Copy the numbers in a ctypes object; None if it may contain pointers."""
    kind: Any = type(owner)
    while isinstance(kind, type):
        kind = getattr(kind, "_type_", None)
    if kind not in _NUMBERS:
        return None
    return ctypes.string_at(ctypes.addressof(owner), ctypes.sizeof(owner))


def _write_memory(owner: Any, was: bytes | None) -> None:
    # Other processes may write to shared memory meanwhile, so write only if it changed.
    if was is not None and _read_memory(owner) != was:
        ctypes.memmove(ctypes.addressof(owner), was, len(was))


_NUMBERS = [*"cbBhHiIlLqQfdg?"]  # the type codes of ctypes
MEMOIZED = by_state(read_keys, forget_new)
STATES: list[tuple[type, Access | None]] = [
    (random.SystemRandom, None),
    (random.Random, by_state(random.Random.getstate, random.Random.setstate)),
    (torch.Generator, by_state(torch.Generator.get_state, torch.Generator.set_state)),
    (bytearray, by_state(bytes, _write_bytes)),
    (array.array, by_state(lambda owner: owner[:], _write_numbers)),
    (ctypes.Array, by_state(_read_memory, _write_memory)),
    (ctypes.c_int.__mro__[1], by_state(_read_memory, _write_memory)),
]


def access_in_numpy(numpy: Any, value: Any) -> Access | None:
    """Return the read and write functions for a NumPy object; None if it cannot change."""
    if isinstance(value, numpy.ndarray):
        if value.dtype == object:
            return _read_items, _write_items
        return _ARRAY if _can_be_written(numpy, value) else None
    if isinstance(value, numpy.random.Generator):
        return _GENERATOR
    return _OLD_GENERATOR if isinstance(value, numpy.random.RandomState) else None


def _can_be_written(numpy: Any, value: Any) -> bool:
    """Return whether an array can change; read-only arrays may be large and are not copied."""
    while isinstance(value, numpy.ndarray):
        if value.flags.writeable:
            return True
        value = value.base
    if value is None:
        return False
    try:
        with memoryview(value) as view:
            return not view.readonly
    except (TypeError, ValueError, BufferError):
        return True


def _read_items(owner: Any) -> list[Any]:
    return list(owner.flat)


def _write_items(owner: Any, contents: list[Any]) -> None:
    import numpy

    if owner.flags.writeable and owner.size == len(contents):
        for index, item in zip(numpy.ndindex(owner.shape), contents, strict=True):
            owner[index] = item


def _write_array(owner: Any, values: Any) -> None:
    if owner.flags.writeable and owner.shape == values.shape:
        owner[...] = values


def _read_bits(owner: Any) -> Any:
    return owner.bit_generator.state


def _write_bits(owner: Any, was: Any) -> None:
    owner.bit_generator.state = was


_ARRAY = by_state(lambda owner: owner.copy(), _write_array)
_GENERATOR = by_state(_read_bits, _write_bits)
_OLD_GENERATOR = by_state(lambda owner: owner.get_state(), lambda owner, was: owner.set_state(was))


def _same_place(iterator: Any) -> Any:
    """Return a new iterator over the remaining items of this one."""
    try:
        return copy.copy(iterator)
    except RuntimeError:  # its dict has changed since, so it cannot continue
        return iterator


def _same_count(counter: "itertools.count[Any]") -> "itertools.count[Any]":
    """Return a new counter at the position of this one."""
    try:
        state = ast.literal_eval(repr(counter).removeprefix("count"))
    except (ValueError, SyntaxError):  # for example, it counts in Fractions
        return counter
    return itertools.count(*state) if isinstance(state, tuple) else itertools.count(state)


# Iterators cannot be rewound, so a dry run advances copies of them.
_SEQUENCES: list[Any] = [[], (), range(0), "", b"", bytearray(), {}, {}.values(), {}.items(), set()]
_SEQUENCES += [range(1 << 70)]
TWINS: dict[type, Callable[[Any], Any]] = {
    itertools.count: _same_count,
    **{type(iter(sequence)): _same_place for sequence in _SEQUENCES},
    type(reversed([])): _same_place,
}
