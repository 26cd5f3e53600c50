"""Sort the arguments of a criterion: output, target, and those that belong to either."""

import functools
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifold_mixup._mix import is_continuous
from manifold_mixup._target.interpolation import holds_batch
from manifold_mixup._target.losses import (
    OUTPUTS,
    PARTS,
    WEIGHTS,
    Criterion,
    as_lengths,
    as_torch_loss,
    signature,
)
from manifold_mixup._tree import children, leaves

Key = int | str  # an argument by position, or by name
Keys = Key | Iterable[Key]

_NOWHERE = sys.maxsize  # the position of an argument that has none
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, repr=False, match_args=False)
class Declared:
    """What the user declared about the arguments after the target."""

    with_target: frozenset[Key]
    with_output: frozenset[Key]
    whole: frozenset[Key]

    @classmethod
    def from_options(cls, with_target: Keys, with_output: Keys, whole: Keys) -> "Declared":
        """Check and store the three declarations.

        Raises:
            TypeError: an entry is neither a name nor a position.
            ValueError: two of the declarations contain the same entry.
        """
        if with_target == with_output == whole == ():  # the usual case
            return NONE
        sets = [
            _keys(name, given)
            for name, given in (
                ("with_target", with_target),
                ("with_output", with_output),
                ("whole", whole),
            )
        ]
        twice = (sets[0] & sets[1]) | (sets[0] & sets[2]) | (sets[1] & sets[2])
        if twice:
            raise ValueError(
                f"{sorted(map(str, twice))} is named by more than one of with_target, with_output "
                f"and whole. An argument belongs to one of them."
            )
        return cls(*sets)


NONE = Declared(frozenset(), frozenset(), frozenset())
"""Nothing was declared."""


def _keys(name: str, given: Keys) -> frozenset[Key]:
    keys = [given] if isinstance(given, int | str) else list(given)
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, int | str) or str(key).startswith("-"):
            raise TypeError(
                f"{name} must hold names or positions of the criterion's arguments, but contains "
                f"{key!r}. The output is 0, the target 1."
            )
    return frozenset(keys)


class Roles(NamedTuple):
    """The roles of a call's arguments; the same for every call of the same form."""

    output: Key
    target: Key | None
    outputs: tuple[Key, ...]  # further arguments that belong to the output
    targets: tuple[Key, ...]  # further arguments that belong to the target
    weights: tuple[Key, ...]  # of PyTorch's losses: may be per example
    others: tuple[Key, ...]  # not declared


@dataclass(slots=True, eq=False, repr=False, match_args=False)
class Call:
    """One call of a criterion."""

    args: tuple[Any, ...]
    options: Mapping[str, Any]

    def __getitem__(self, key: Key) -> Any:
        return self.args[key] if isinstance(key, int) else self.options[key]

    def replace(self, new: Mapping[Key, Any]) -> "Call":
        """Return the call with some arguments replaced."""
        args = list(self.args)
        options = dict(self.options)
        for key, value in new.items():
            if isinstance(key, int):
                args[key] = value
            else:
                options[key] = value
        return Call(tuple(args), options)

    def run(self, criterion: Criterion) -> Any:
        """Make the call."""
        return criterion(*self.args, **self.options)


# The calls of a criterion with the own targets and with the partners'.
CallPair = tuple[Call, Call]


def mix_instead(calls: CallPair | None) -> str:
    """Return a way out for targets that are all floating point; empty for others.

    The targets are what differs between the two calls.
    """
    if calls is None:
        return ""
    ends = [[leaf for _, leaf in leaves((call.args, call.options))] for call in calls]
    differ = [own for own, other in zip(*ends, strict=True) if own is not other]
    floating = bool(differ) and all(map(is_continuous, differ))
    return "; or, if the targets can be interpolated, targets='mix'" if floating else ""


class Arguments:
    """The arguments of one criterion.

    Raises:
        ValueError: the criterion has no argument of a declared name or position.
    """

    def __init__(self, criterion: Criterion, declared: Declared) -> None:
        self.criterion = criterion
        self.torch_loss = as_torch_loss(criterion)
        self._declared = declared
        self._open = True  # whether it accepts arguments that its signature does not name
        self.names: tuple[str, ...] = ()
        if (found := signature(criterion)) is not None:
            self._read_signature(found)
        self._roles: dict[tuple[int, tuple[str, ...]], Roles] = {}
        self._whole: set[tuple[Key, str]] = set()  # seen with a dimension 0 that is not the batch

    def _read_signature(self, found: inspect.Signature) -> None:
        parameters = found.parameters.values()
        self.names = tuple(part.name for part in parameters if part.kind in _POSITIONAL)
        kinds = {part.kind for part in parameters}
        any_position, any_name = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
        self._open = any_position in kinds or any_name in kinds
        for key in frozenset().union(*vars(self._declared).values()):
            by_name = isinstance(key, str)
            if by_name and key not in found.parameters and any_name not in kinds:
                raise ValueError(
                    f"{name_of(self.criterion)} has no argument {key!r}, only "
                    f"{list(found.parameters)}."
                )
            if not by_name and int(key) >= len(self.names) and any_position not in kinds:
                raise ValueError(
                    f"{name_of(self.criterion)} has no argument at position {key}: its arguments, "
                    f"counted from 0, are {list(self.names)}."
                )

    def call(self, args: tuple[Any, ...], options: Mapping[str, Any]) -> Call:
        """Return a call in its standard form, with the reduction passed by name."""
        if "reduction" in self.names[: len(args)]:
            place = self.names.index("reduction")
            options = {**dict(zip(self.names[place:], args[place:], strict=False)), **options}
            args = args[:place]
        return Call(args, options)

    def call_with_target(
        self, y: Any, output: Any, more: tuple[Any, ...], options: dict[str, Any]
    ) -> Call:
        """Return the call with a target: as the second argument, except in some PyTorch losses."""
        place = 1
        if self.torch_loss is not None:
            beside = OUTPUTS | PARTS
            place = next((i for i, name in enumerate(self.names) if name not in beside), 1)
        if place > 1 + len(more):  # the arguments before it are passed by name
            return self.call((output, *more), {**options, self.names[place]: y})
        return self.call((output, *more[: place - 1], y, *more[place - 1 :]), options)

    def roles_of(self, call: Call) -> Roles:
        """Return the roles of a call's arguments.

        Raises:
            TypeError: the call has no output or no target.
        """
        shape = len(call.args), tuple(call.options)
        roles = self._roles.get(shape)
        if roles is None:
            roles = self._roles[shape] = self._sorted([*range(shape[0]), *shape[1]])
        return roles

    def _sorted(self, keys: list[Key]) -> Roles:
        by_role: dict[str, list[Key]] = {role: [] for role in _ROLES}
        for key in keys:
            by_role[self._role(key)].append(key)
        free = by_role["output"] + by_role["other"]
        if self.torch_loss is None:
            output = self._first(free, self._at(free, 0), ("input", "output"))
            rest = [key for key in by_role["other"] if key != output]
            target = self._first(rest, ("target", "targets"), self._at(rest, 1))
        else:
            output = free[0] if free else None
            target = next(iter(by_role["target"]), None)
        needs_target = self.torch_loss is None or not self.torch_loss.compares
        if output is None or (target is None and needs_target):
            raise TypeError(
                f"a wrapped criterion must be called as criterion(output, target, ...), but this "
                f"call of {name_of(self.criterion)} has no "
                f"{'output' if output is None else 'target'}."
            )
        taken = (output, target)
        outputs, targets, others = (
            tuple(key for key in by_role[role] if key not in taken)
            for role in ("output", "target", "other")
        )
        return Roles(output, target, outputs, targets, tuple(by_role["weight"]), others)

    def _first(self, keys: list[Key], *wanted: Iterable[Key]) -> Key | None:
        """Return the first of the wanted arguments that exists, otherwise the first argument."""
        return next((key for some in (*wanted, keys) for key in some if key in keys), None)

    def _at(self, keys: list[Key], place: int) -> list[Key]:
        return [key for key in keys if self._place(key) == place]

    def _place(self, key: Key) -> int:
        if isinstance(key, int):
            return key
        return self.names.index(key) if key in self.names else _NOWHERE

    def _role(self, key: Key) -> str:
        place = self._place(key)
        also: Key = self.names[place] if place < len(self.names) else key
        both = {key, also} | ({place} if place < len(self.names) else set())
        for role, keys in (
            ("target", self._declared.with_target),
            ("output", self._declared.with_output),
            ("whole", self._declared.whole),
        ):
            if both & keys:
                return role
        if self.torch_loss is None:
            return "other"
        if also in OUTPUTS and not (also == "log_input" and place):  # there it is an option
            return "output"
        return "weight" if also in WEIGHTS else "whole" if also in PARTS else "target"

    def target_arguments(
        self, call: Call, roles: Roles, batch: int, dim: int = 0
    ) -> dict[Key, Any]:
        """Return the arguments with a batch dimension that belong to the target.

        Raises:
            ValueError: an argument with the batch at dimension ``dim``, with several rows for each
                example, or of integers, is not declared.
        """
        found: dict[Key, Any] = {}
        for key in roles.targets:
            value = call[key] if self.torch_loss is None else as_lengths(call[key])
            if value is not None and (self.torch_loss is None or _is_rows(value, batch, dim)):
                found[key] = value
        for key in roles.weights:  # of PyTorch's losses
            value, output = call[key], call[roles.output]
            if _is_rows(value, batch, dim) and value.ndim >= getattr(output, "ndim", 0) > 0:
                found[key] = value
        for key in roles.others:
            self._require_no_rows(key, call[key], batch, dim)
        return found

    def _require_no_rows(self, key: Key, value: Any, batch: int, dim: int) -> None:
        if value is None or isinstance(value, str | int | float):
            return
        for path, rows, what, kind in _counted(value, dim):
            if sign := _sign(rows, batch, kind):
                if sign is _INTEGERS or (key, path) not in self._whole:
                    raise ValueError(self._undeclared(key, path, what, sign.format(batch)))
            else:
                self._whole.add((key, path))

    def _undeclared(self, key: Key, path: str, what: str, sign: str) -> str:
        place = self._place(key)
        name = self.names[place] if isinstance(key, int) and place < len(self.names) else key
        where = f"argument {place}, {name!r}," if isinstance(name, str) else f"argument {place}"
        if isinstance(key, str) and place == _NOWHERE:
            where = f"argument {key!r}"
        inside = f" has at {path!r} a value that" if path else ""
        return (
            f"{where} of {name_of(self.criterion)}{inside} has {what}{sign}: should it be mixed "
            f"with the target? In wrap, target or MixedTarget, set with_target=({name!r},) if it "
            f"comes from the data, such as weights or lengths of examples, with the batch first "
            f"(flatten it in the criterion); with_output=({name!r},) if the model computed it; "
            f"whole=({name!r},) if it is the same for every batch, such as class weights. What is "
            f"computed from the targets, such as the pairs of a miner, belongs in the criterion: "
            f"mixup.wrap(lambda output, target: criterion(output, target, miner(output, target)))."
        )


# Why an argument that was not declared may belong to the examples.
_ROWS = ", and {} is the batch size"
_SEVERAL_ROWS = ", a multiple of the batch size, {}"
_INTEGERS = " and holds integers, which may be indices of the {} examples or belong to them"
_ROLES = ("output", "target", "weight", "whole", "other")


def _is_rows(value: Any, batch: int, dim: int) -> bool:
    return isinstance(value, Tensor) and holds_batch(value.shape, batch, dim)


def _counted(value: Any, dim: int, path: str = "") -> Iterator[tuple[str, int, str, str]]:
    """Yield ``(path, rows, description, kind)`` for every array and list in a value.

    The kind is ``"array"``, whose rows may be positions of the examples; ``"integers"``, a tensor
    of several, which may be indices of examples; or ``"list"``.
    """
    if isinstance(value, tuple | list) and value and not hasattr(value, "_fields"):
        numbers = all(isinstance(item, int | float) for item in value)
        yield path, len(value), f"{len(value)} {'numbers' if numbers else 'items'}", "list"
        if numbers:
            return
    inner = children(value) if not isinstance(value, Tensor) else []
    for key, child in inner:
        yield from _counted(child, dim, f"{path}.{key}" if path else str(key))
    shape = getattr(value, "shape", None)
    if not inner and shape is not None and len(shape):
        rows = int(shape[dim if len(shape) > dim else 0])
        integers = isinstance(value, Tensor) and value.numel() > 1 and not is_continuous(value)
        integers = integers and value.dtype != torch.bool  # which numbers no example
        yield path, rows, f"shape {tuple(shape)}", "integers" if integers else "array"


def _sign(rows: int, batch: int, kind: str) -> str:
    """Return what tells that an array or a list may belong to the examples; empty if nothing."""
    if rows == batch:
        return _ROWS
    if kind == "integers":
        return _INTEGERS
    several = kind == "array" and rows > batch > 1 and rows % batch == 0
    return _SEVERAL_ROWS if several else ""


def name_of(criterion: Criterion) -> str:
    """Return the name of a criterion for a message."""
    while isinstance(criterion, functools.partial):
        criterion = criterion.func
    if inspect.ismethod(criterion) and criterion.__name__ in ("forward", "__call__"):
        return type(criterion.__self__).__name__
    return getattr(criterion, "__name__", type(criterion).__name__)
