"""What one call of an operator reads and writes."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifold_mixup._dry_run.neutral import Named, arguments_of, bind, is_random, operator_name
from manifold_mixup._masks import FORBIDDEN
from manifold_mixup._mix import is_continuous
from manifold_mixup._structure.captured import captured
from manifold_mixup._structure.interactions import can_interact
from manifold_mixup._tree import tensors_in

# Operators whose result does not depend on the values of their arguments.
_SHAPE_ONLY = ("_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided")
# Operators that overwrite their whole target.
_OVERWRITE = {"copy_", "fill_", "zero_", "uniform_", "normal_", "random_", "bernoulli_"}
# Operators that choose rows of a table, and the arguments that choose.
_LOOKUPS = {
    "embedding": "indices",
    "_embedding_bag": "indices",
    "_embedding_bag_forward_only": "indices",
    "index": "indices",
    "index_select": "index",
    "gather": "index",
    "take": "index",
}
# The same, plus operators that write to a row or compare with a row number.
_CODES = {
    **_LOOKUPS,
    **dict.fromkeys(("scatter", "scatter_", "scatter_add", "scatter_add_"), "index"),
    **dict.fromkeys(("index_add", "index_add_", "index_copy", "index_copy_"), "index"),
    **dict.fromkeys(("index_put", "index_put_"), "indices"),
    "eq": "self",  # compares with a range, as one_hot does
}
# Operators that return the given values unchanged, or nearly so.
_MOVES = {
    "clone",
    "_to_copy",
    "cat",
    "stack",
    "copy",
    "copy_",
    "repeat",
    "lift_fresh",
    "index",
    "index_select",
    "gather",
}
_MOVES |= {"round", "clamp", "clamp_min", "clamp_max", "nan_to_num", "constant_pad_nd", "detach"}
_MOVES |= {"flip", "roll", "expand_copy", "unsafe_split", "split_with_sizes_copy", "view_copy"}
# Arguments of attention operators that are added to the scores.
_BIASES = ("attn_mask", "attn_bias")
# Operators that fill in another value, and the arguments that choose where.
_CONDITIONS = {"masked_fill": "mask", "masked_fill_": "mask", "where": "condition"}
# Products of matrices, and convolutions.
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "convolution", "_convolution"}
PRODUCTS |= {"mv", "addmv", "einsum", "_trilinear", "bilinear"}
# Operators that allocate a tensor without writing to it.
_BLANK = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty"}
_BLANK |= {"new_empty_strided"}
# Running statistics are not a path: in train mode the output depends on the batch's statistics.
_STATISTICS = {"running_mean", "running_var"}


class TensorArgument(NamedTuple):
    """An argument of an operator that may hold tensors.

    Attributes:
        number: its place among the arguments.
        name: its name.
        default: its default value.
        written: whether the operator writes into it.
        gone: whether the operator does not read it, because it overwrites all of it.
    """

    number: int
    name: str
    default: Any
    written: bool
    gone: bool


class Signature:
    """What all calls of an operator have in common.

    Attributes:
        name: name of the operator.
        arguments: the arguments that may hold tensors; None for an operator without a schema.
        random: whether its result is random.
        usual: whether it reads all its arguments, in no special role.
        moves: whether it returns the given values unchanged, or nearly so.
        shaped: whether it is given dimensions or a shape, which say what it does.
        can_interact: whether rows of the batch may interact by it.
        pointwise: whether it treats each element alone.
    """

    def __init__(self, func: Any) -> None:
        self.name = name = operator_name(func)
        schema = hasattr(func, "_schema")  # higher-order operators have none
        self.arguments = tuple(_tensor_arguments(func, name)) if schema else None
        self.random = is_random(func)
        names = {argument.name for argument in arguments_of(func)} if schema else set()
        special = name in _CODES or name in _CONDITIONS or name == "set_" or "attention" in name
        self.usual = not (special or name.endswith(_SHAPE_ONLY) or "beta" in names)
        self.moves = name in _MOVES
        self.shaped = not names.isdisjoint(("dim", "dims", "keepdim", "normalized_shape"))
        self.can_interact = schema and can_interact(name)
        self.pointwise = torch.Tag.pointwise in getattr(func, "tags", ())


def _tensor_arguments(func: Any, name: str) -> Iterator[TensorArgument]:
    overwrites = name in _OVERWRITE
    for number, given in enumerate(arguments_of(func)):
        if given.may_hold_tensors and given.name not in _STATISTICS:
            gone = given.written and (overwrites or given.is_out)
            yield TensorArgument(number, given.name, given.default, given.written, gone)


signature_of = functools.cache(Signature)


class Operation:
    """What an operator call reads and writes.

    Attributes:
        signature: what it has in common with all calls of its operator.
        name: name of the operator.
        reads: tensors whose values the result depends on.
        indices: those that choose rows of a table.
        codes: those that choose rows in any way.
        biases: those that it adds to attention scores.
        conditions: those that choose where it fills in another value, which may forbid scores.
        writes: tensors it writes into.
    """

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.signature = signature = signature_of(func)
        self.name = signature.name
        self.reads: list[Tensor] = []
        self.writes: list[Tensor] = []
        self.indices: Sequence[Tensor] = ()
        self.codes: Sequence[Tensor] = ()
        self.biases: Sequence[Tensor] = ()
        self.conditions: Sequence[Tensor] = ()
        self._given = func, args, kwargs
        if signature.arguments is None:
            self.reads = list(captured((args, kwargs)))
            return
        self._sort(signature.arguments, args, kwargs)
        if not signature.usual:
            self._leave_out(self.named or {})
            self._find_roles(self.named or {})

    @functools.cached_property
    def named(self) -> Named | None:
        """Its arguments by name; None for an operator without a schema."""
        return None if self.signature.arguments is None else bind(*self._given)

    def _sort(
        self, arguments: tuple[TensorArgument, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """Find the tensors that are read, and those that are written."""
        count = len(args)
        for number, name, default, written, gone in arguments:
            value = args[number] if number < count else kwargs.get(name, default)
            if value is None:
                continue
            tensors = [value] if isinstance(value, Tensor) else list(tensors_in(value))
            self.reads += [each for each in tensors if not (gone and _fills_storage(each))]
            self.writes += tensors if written else []

    def _leave_out(self, named: Named) -> None:
        """Leave out what is not read although it is given."""
        if self.name.endswith(_SHAPE_ONLY):
            self.reads = []
        if named.get("beta") == 0 and isinstance(named.get("self"), Tensor):
            self.reads = [tensor for tensor in self.reads if tensor is not named["self"]]
        if self.name == "set_":  # makes an alias and writes nothing
            self.reads, self.writes = [], []

    def _find_roles(self, named: Named) -> None:
        if self.name in _LOOKUPS:
            self.indices = list(tensors_in(named[_LOOKUPS[self.name]]))
        if self.name in _CODES:
            self.codes = list(tensors_in(named[_CODES[self.name]]))
        if "attention" in self.name:
            self.biases = list(tensors_in([named.get(key) for key in _BIASES]))
        filled = [named.get(key) for key in ("value", "self", "other")]
        if self.name in _CONDITIONS and not any(map(_is_mild, filled)):
            self.conditions = list(tensors_in(named[_CONDITIONS[self.name]]))

    def kind(self, given: set[str], *, integer: bool, new: bool) -> str:
        """Return the kind of a result computed from values of the kinds ``given``; see `Node`."""
        if self.name in _BLANK:
            return "blank"
        if self.name == "arange":
            return "range"
        if self.name not in _MOVES:
            return ""
        if integer and any(is_continuous(tensor) for tensor in self.reads):
            return "cast"
        if new and given and given <= {"range"}:
            return "range"
        return "blank" if new and given == {"blank"} else "move"


def _is_mild(value: Any) -> bool:
    """Return whether a value is known not to forbid the attention score that it replaces."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = getattr(value, "constant", None)  # of a stand-in that was made of a number
        value = value.item() if isinstance(value, Tensor) else None
    return isinstance(value, int | float) and value > FORBIDDEN


def _fills_storage(tensor: Tensor) -> bool:
    try:
        return tensor.numel() * tensor.element_size() >= tensor.untyped_storage().nbytes()
    except (NotImplementedError, RuntimeError):
        return False
