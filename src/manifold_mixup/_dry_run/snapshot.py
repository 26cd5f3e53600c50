"""Save a model and everything its code can change, to restore it or to run it on stand-ins."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._dry_run.caches import Cache
from manifold_mixup._dry_run.holders import Part
from manifold_mixup._dry_run.reach import reach
from manifold_mixup._dry_run.states import TWINS, CopiedState

StandIn = Callable[[Tensor], Tensor]

# The latest snapshot, and the number of modules imported when it was taken; None outside of
# `taken_once`.
_LATEST: ContextVar[list[tuple["Snapshot", int]] | None] = ContextVar("latest", default=None)


@contextmanager
def taken_once() -> Iterator[None]:
    """Let the dry runs of the body share a snapshot, because each leaves everything as it was."""
    token = _LATEST.set([])
    try:
        yield
    finally:
        _LATEST.reset(token)


def snapshot_of(model: nn.Module) -> "Snapshot":
    """Return a snapshot of a model: inside of `taken_once`, the latest, if that is still right.

    It is not if our own code has put hooks on the model meanwhile, for example, or if a forward
    pass has imported what can now be reached too.
    """
    latest = _LATEST.get()
    for snapshot, imported in latest or ():
        if snapshot.model is model and imported == len(sys.modules) and snapshot.is_current():
            return snapshot
    snapshot = Snapshot(model)
    if latest is not None:
        latest[:] = [(snapshot, len(sys.modules))]
    return snapshot


class Snapshot:
    """The saved state of a model and of everything it can reach.

    Args:
        model: the model. Only the lists of what its objects hold are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parts = reach(model)

    def is_current(self) -> bool:
        """Return whether everything still is as it was, but for copied states of generators."""
        return not any(_differs(part, part.contents) for part in self.parts if _may_differ(part))

    def modules(self) -> list[nn.Module]:
        """List the nn.Modules that can be reached: those of the model, and others it runs."""
        owners = (part.owner for part in self.parts if not part.empty)
        # By id, because a user's class may define equality or not be hashable.
        found = {id(owner): owner for owner in owners if isinstance(owner, nn.Module)}
        return list(found.values())

    def tensors(self) -> list[Tensor]:
        """List the tensors that can be reached, each once."""
        found: dict[int, Tensor] = {}
        for part in self.parts:
            for place in part.replaceable:
                _collect_tensors(part.contents[place], found)
        return list(found.values())

    def caches(self) -> list[Any]:
        """List the memoized functions with a bounded cache."""
        return [part.owner for part in self.parts if type(part.owner) is Cache]

    def restore(
        self, stand_ins: dict[int, Tensor] | None = None, *, unchanged: bool = False
    ) -> None:
        """Restore everything, optionally with stand-ins in place of tensors.

        Args:
            stand_ins: maps the `id` of a tensor to its stand-in; iterators are then replaced as
                well.
            unchanged: whether everything still is as it was, so that only stand-ins are put.
        """
        errors = []
        for part in self.parts:
            if not _may_differ(part) or (unchanged and not part.replaceable):
                continue
            try:
                _restore_part(part, stand_ins)
            except Exception as error:  # first restore all other parts
                errors.append(error)
        if errors:
            raise errors[0]


def _restore_part(part: Part, stand_ins: dict[int, Tensor] | None) -> None:
    wanted = part.contents
    if stand_ins is not None and part.replaceable:
        wanted = list(wanted)
        for place in part.replaceable:
            wanted[place] = _with_stand_ins(wanted[place], stand_ins)
    if _is_copied(wanted) or _differs(part, wanted):
        part.write(part.owner, wanted)


def _may_differ(part: Part) -> bool:
    return not part.empty or bool(part.owner)


def _is_copied(wanted: list[Any]) -> bool:
    """Return whether it is a copy: reading makes another one, so only its writer can compare it."""
    return len(wanted) == 1 and type(wanted[0]) is CopiedState


def _differs(part: Part, wanted: list[Any]) -> bool:
    """Return whether an object holds others than wanted; of copied states, that is not known."""
    if _is_copied(wanted):
        return False
    now = part.read(part.owner)
    return len(now) != len(wanted) or not all(map(is_, now, wanted))


def _with_stand_ins(value: Any, stand_ins: dict[int, Tensor]) -> Any:
    """Return a value with its tensors replaced; the same object if there are no stand-ins."""
    kind = type(value)  # isinstance fails for a dead weak proxy
    if issubclass(kind, Tensor):
        return stand_ins.get(id(value), value)
    if kind in TWINS:
        return TWINS[kind](value)
    if not issubclass(kind, tuple) or kind is torch.Size:
        return value
    items = [_with_stand_ins(item, stand_ins) for item in value]
    if all(map(is_, items, value)):
        return value
    return kind(*items) if hasattr(value, "_fields") else kind(items)


def _collect_tensors(value: Any, found: dict[int, Tensor]) -> None:
    if issubclass(type(value), Tensor):
        found[id(value)] = value
    elif issubclass(type(value), tuple):
        for item in value:
            _collect_tensors(item, found)
