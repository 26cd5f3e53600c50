"""Fake tensors that outlive a look: a model that kept one would train on nothing, in silence."""

import gc
import types
import weakref
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from manifold_mixup._holders import dict_of
from manifold_mixup._tree import leaves

# So far it is followed what holds a tensor, and so many times all objects are asked.
_DEEP, _STEPS = 5, 50


class LeftBehind(RuntimeError):
    """Something of the user's holds a fake tensor; the message says what.

    It is no NotTraceable, of which a training is only warned: from here on it would be wrong.
    """


class Watch:
    """Whether anything is left of a look on fake tensors, once everything was put back.

    Attributes:
        caches: those that forget. What was taken out of them is held where nobody finds it.
    """

    def __init__(self) -> None:
        self._mode: weakref.ref[Any] | None = None
        self.caches: list[Any] = []

    def over(self, mode: Any) -> Any:
        """Watch the tensors of a `FakeTensorMode`, and return it: each of them holds it."""
        self._mode = weakref.ref(mode)
        mode.of_a_look = True
        return mode

    def require_nothing_left(self) -> None:
        """Raise if a fake tensor is still in use.

        Raises:
            LeftBehind: there is one.
        """
        left = self._left()
        if left:
            left.clear()
            gc.collect()  # seldom needed: a model makes cycles of its tensors, or keeps some
            left = self._left()
        if left and (found := self._found(left)) is not None:
            raise LeftBehind(_message(*found))

    def _found(self, left: list[Any]) -> tuple[Tensor, str] | None:
        frozen = gc.get_freeze_count() > 0
        if frozen:  # nobody is seen to be held by what is frozen
            gc.unfreeze()
        try:
            return _Search(self.caches).first_of(left)
        finally:
            if frozen:
                gc.freeze()

    def _left(self) -> list[Any]:
        mode = None if self._mode is None else self._mode()
        if mode is None:  # its tensors would hold it
            return []
        from torch._subclasses.fake_tensor import FakeTensor

        fakes = [thing for thing in gc.get_objects() if type(thing) is FakeTensor]
        return [tensor for tensor in fakes if tensor.fake_mode is mode]


def require_real(output: Any) -> None:
    """Raise if the output of a pass on the user's own tensors holds a fake one.

    Raises:
        LeftBehind: it does.
    """
    for path, tensor in leaves(output):
        # A user may have made fake tensors as well, and then means them.
        if getattr(getattr(tensor, "fake_mode", None), "of_a_look", False):
            place = f"something from which it computes its output{path and f' {path!r}'}"
            raise LeftBehind(_message(tensor, place))


class _Search:
    """Finds out what holds tensors, and how a person would call that."""

    def __init__(self, caches: list[Any]) -> None:
        self.caches = set(map(id, caches))
        self.steps = 0

    def first_of(self, left: list[Tensor]) -> tuple[Tensor, str] | None:
        """Return the tensor that is easiest to find and its place; None if nobody finds any."""
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
        """List the names of an object; none if it was taken out of one of the caches."""
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
        # A graph that holds itself is never freed, and nobody comes across it.
        if id(holder) in self.caches or issubclass(type(holder), torch._C._FunctionBase):
            return []
        return _by_attribute(holder, thing) or self._by_item(holder, thing, known, deep)

    def _by_item(self, holder: Any, thing: Any, known: set[int], deep: int) -> list[str]:
        """Name an object as something in the holder, by the names of that."""
        if type(holder) is types.FunctionType or not deep or self.steps > _STEPS:
            return [_named(holder)]
        key = ""
        if issubclass(type(holder), dict):
            key = "".join(f"[{_short(key)}]" for key in _keys_of(holder, thing)[:1])
        return [f"{place}{key}" for place in self._places(holder, known, deep - 1)]


def _holders(things: list[Any], known: set[int]) -> list[Any]:
    """List the objects, but running code, that refer to one of some things."""
    found = gc.get_referrers(*things)
    return [one for one in found if id(one) not in known and one is not things and not _runs(one)]


def _runs(holder: Any) -> bool:
    """Return whether a holder is running code, as ours is."""
    if type(holder) is types.GeneratorType:
        return holder.gi_running
    return type(holder) in (types.FrameType, types.TracebackType)


def _vagueness(place: str) -> tuple[bool, int]:
    return place.startswith("a "), len(place)


def _by_attribute(holder: Any, thing: Any) -> list[str]:
    """Name an object as an attribute: of what the holder is the ``__dict__`` of, or of itself."""
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
        f"the model was looked at on fake tensors, which have no values, and its forward has left "
        f"one of shape {tuple(tensor.shape)} where it cannot be taken back from: {place}. Training "
        f"with it would do nothing, in silence. Set it to what it was before this call. To go on, "
        f"let forward keep such a tensor in an attribute or a buffer of a module, which is put "
        f"back; or name the layers, leave example= out and say check=False"
    )
