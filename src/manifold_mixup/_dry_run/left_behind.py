"""Find fake tensors that outlive a dry run, because training on them would silently do nothing."""

import gc
import types
import weakref
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._dry_run.holders import dict_of
from manifold_mixup._tree import leaves

# Maximal length of a chain of holders, and maximal number of scans of all objects.
_DEEP, _STEPS = 5, 50


class LeftBehind(RuntimeError):
    """An object of the user still holds a fake tensor; the message names it.

    This is not a NotTraceable, which only causes a warning, because training would now be wrong.
    """


class FakeTensorWatch:
    """Checks that no fake tensor is left after a dry run was undone.

    Attributes:
        caches: memoized functions. Their removed entries may still be held where nobody finds them.
    """

    def __init__(self) -> None:
        self._mode: weakref.ref[Any] | None = None
        self.caches: list[Any] = []

    def over(self, mode: Any) -> Any:
        """Watch the tensors of a `FakeTensorMode`, which all refer to it, and return the mode."""
        self._mode = weakref.ref(mode)
        mode.of_a_look = True
        return mode

    def require_nothing_left(self) -> None:
        """Raise LeftBehind if a fake tensor is still in use."""
        if self._mode is not None and self._mode() is not None:
            gc.collect(1)  # operators on fake tensors leave closures that refer to themselves
        left = self._left()
        if left:
            left.clear()
            gc.collect()  # rarely needed: the model has reference cycles or keeps tensors
            left = self._left()
        if left and (found := self._found(left)) is not None:
            raise LeftBehind(_message(*found))

    def _found(self, left: list[Any]) -> tuple[Tensor, str] | None:
        frozen = gc.get_freeze_count() > 0
        if frozen:  # frozen objects are not found as referrers
            gc.unfreeze()
        try:
            return _Search(self.caches).first_of(left)
        finally:
            if frozen:
                gc.freeze()

    def _left(self) -> list[Any]:
        mode = None if self._mode is None else self._mode()
        if mode is None:  # then its tensors are gone too, because they hold it
            return []
        from torch._subclasses.fake_tensor import FakeTensor

        fakes = [thing for thing in gc.get_objects() if type(thing) is FakeTensor]
        return [tensor for tensor in fakes if tensor.fake_mode is mode]


def require_real(output: Any) -> None:
    """Raise LeftBehind if the output of a real forward pass contains a fake tensor."""
    for path, tensor in leaves(output):
        # Fake tensors that the user made are intentional.
        if getattr(getattr(tensor, "fake_mode", None), "of_a_look", False):
            place = f"an object from which it computes its output{path and f' {path!r}'}"
            raise LeftBehind(_message(tensor, place))


class _Search:
    """Finds the objects that hold tensors, and readable names for them."""

    def __init__(self, caches: list[Any]) -> None:
        self.caches = set(map(id, caches))
        self.steps = 0

    def first_of(self, left: list[Tensor]) -> tuple[Tensor, str] | None:
        """Return the tensor with the clearest name and that name; None if no holder is found."""
        tensors = {id(tensor): tensor for tensor in left}
        found = []
        known = {id(left), id(tensors), *tensors}
        holders = _holders(left, known)
        known.add(id(holders))
        for holder in holders:
            tensor = next(t for t in gc.get_referents(holder) if id(t) in tensors)
            places = self._named_in(holder, tensor, known, _DEEP)
            found += list(zip(repeat(tensor), places, strict=False))
        return min(found, key=lambda pair: _vagueness(pair[1]), default=None)

    def _places(self, thing: Any, known: set[int], deep: int) -> list[str]:
        """List the names of an object; empty if it was removed from one of the caches."""
        self.steps += 1
        holders = _holders([thing], known)
        if not holders:
            return [_named(thing)]
        known = known | {id(thing), id(holders)}
        found: list[str] = []
        for holder in holders:  # a comprehension would hold the object itself, in a cell
            found += self._named_in(holder, thing, known, deep)
        return found

    def _named_in(self, holder: Any, thing: Any, known: set[int], deep: int) -> list[str]:
        # An autograd graph that holds itself is never freed, but nobody can reach it.
        if id(holder) in self.caches or issubclass(type(holder), torch._C._FunctionBase):
            return []
        return _by_attribute(holder, thing) or self._by_item(holder, thing, known, deep)

    def _by_item(self, holder: Any, thing: Any, known: set[int], deep: int) -> list[str]:
        """List names of an object as an item of its holder, from the holder's names."""
        if type(holder) is types.FunctionType or not deep or self.steps > _STEPS:
            return [_named(holder)]
        key = ""
        if issubclass(type(holder), dict):
            key = "".join(f"[{_short(key)}]" for key in _keys_of(holder, thing)[:1])
        return [f"{place}{key}" for place in self._places(holder, known, deep - 1)]


def _holders(things: list[Any], known: set[int]) -> list[Any]:
    """List the objects that refer to any of the given ones, except running code."""
    arguments = tuple(things)  # since Python 3.13 it would be found as well
    known = known | {id(things), id(arguments)}
    return [h for h in gc.get_referrers(*arguments) if id(h) not in known and not _runs(h)]


def _runs(holder: Any) -> bool:
    """Return whether a holder is running code, such as this function."""
    if type(holder) is types.GeneratorType:
        return holder.gi_running
    return type(holder) in (types.FrameType, types.TracebackType)


def _vagueness(place: str) -> tuple[bool, int]:
    return place.startswith("a "), len(place)


def _by_attribute(holder: Any, thing: Any) -> list[str]:
    """List names of an object as an attribute of the holder, or of the holder's owner."""
    owners = [holder]
    if type(holder) is dict:
        owners = [owner for owner in gc.get_referrers(holder) if _owns(owner, holder)]
    found = []
    for owner in owners:
        for name in _keys_of(_attributes(owner), thing):
            found.append(f"{_named(owner)}.{name}")
    return found


def _keys_of(items: dict[Any, Any], thing: Any) -> list[Any]:
    return [key for key, value in items.items() if value is thing]


def _owns(owner: Any, attributes: dict[Any, Any]) -> bool:
    if issubclass(type(owner), type):
        return any(held is attributes for held in gc.get_referents(owner))
    return dict_of(owner) is attributes


def _attributes(owner: Any) -> dict[str, Any]:
    return dict(vars(owner)) if issubclass(type(owner), type) else dict_of(owner) or {}


def _short(key: Any) -> str:
    return repr(key) if isinstance(key, str | int) else f"a {type(key).__name__}"


def _named(owner: Any) -> str:
    code = (type, types.FunctionType, types.ModuleType)
    name = owner.__name__ if issubclass(type(owner), code) else None
    return name if isinstance(name, str) else f"a {type(owner).__qualname__}"


def _message(tensor: Tensor, place: str) -> str:
    return (
        f"the model was inspected with fake tensors, which have no values, and its forward has "
        f"left one of shape {tuple(tensor.shape)} in a place that cannot be restored: {place}. "
        f"Training with it would silently do nothing. Set it to its value before this call. Then "
        f"either let forward keep such tensors in an attribute or a buffer of a module, which is "
        f"restored; or name the layers, omit example= and set check=False"
    )
