"""A model and all that its code can change, as it was: to be put back, or run with stand-ins."""

from collections.abc import Callable
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._caches import Cache
from manifold_mixup._holders import Part
from manifold_mixup._reach import reach
from manifold_mixup._states import TWINS, State

StandIn = Callable[[Tensor], Tensor]


class Snapshot:
    """What a model was like, and whatever it can reach.

    Args:
        model: the model. Nothing of it is copied but the lists of what it holds.
    """

    def __init__(self, model: nn.Module) -> None:
        self.parts = reach(model)

    def modules(self) -> list[nn.Module]:
        """List the modules that can be reached: those of the model, and others it runs."""
        owners = (part.owner for part in self.parts)
        # By their ids, for a class of the user's may have made them equal, or not hashable.
        found = {id(owner): owner for owner in owners if isinstance(owner, nn.Module)}
        return list(found.values())

    def tensors(self) -> list[Tensor]:
        """List the tensors that can be reached, each once."""
        found: dict[int, Tensor] = {}
        for part in self.parts:
            if part.trades:
                for value in part.held:
                    _gather(value, found)
        return list(found.values())

    def caches(self) -> list[Any]:
        """List the memoized functions that forget."""
        return [part.owner for part in self.parts if type(part.owner) is Cache]

    def put(self, stand_ins: dict[int, Tensor] | None = None) -> None:
        """Make everything what it was, with stand-ins in the places of tensors.

        Args:
            stand_ins: by the `id` of a tensor that was there, what to put in its place; iterators
                are then exchanged as well.
        """
        errors = []
        for part in self.parts:
            try:
                _put(part, stand_ins)
            except Exception as error:  # all the others are put back first
                errors.append(error)
        if errors:
            raise errors[0]


def _put(part: Part, stand_ins: dict[int, Tensor] | None) -> None:
    wanted = part.held
    if stand_ins is not None and part.trades:
        wanted = [_exchanged(value, stand_ins) for value in wanted]
    # A copy of a state is compared, if at all, by who writes it: reading makes another copy.
    stated = len(wanted) == 1 and type(wanted[0]) is State
    now = wanted if stated else part.read(part.owner)
    if stated or len(now) != len(wanted) or not all(map(is_, now, wanted)):
        part.write(part.owner, wanted)


def _exchanged(value: Any, stand_ins: dict[int, Tensor]) -> Any:
    """Return a value with stand-ins for what is in it; the same object if there are none."""
    kind = type(value)  # a dead weak proxy cannot be asked for its class
    if issubclass(kind, Tensor):
        return stand_ins.get(id(value), value)
    if kind in TWINS:
        return TWINS[kind](value)
    if not issubclass(kind, tuple) or kind is torch.Size:
        return value
    items = [_exchanged(item, stand_ins) for item in value]
    if all(map(is_, items, value)):
        return value
    return kind(*items) if hasattr(value, "_fields") else kind(items)


def _gather(value: Any, found: dict[int, Tensor]) -> None:
    if issubclass(type(value), Tensor):
        found[id(value)] = value
    elif issubclass(type(value), tuple):
        for item in value:
            _gather(item, found)
