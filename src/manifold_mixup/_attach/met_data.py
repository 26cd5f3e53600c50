"""Notice data of the batch that an output meets between the model and the criterion.

They stay those of the examples themselves, while the targets are mixed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manifold_mixup import _autograd

Operand = tuple[Any, int]  # the node that made it, or None for a constant, and which result it is


class After(NamedTuple):
    """What is known of the forward passes that an output follows.

    Attributes:
        batch: the number of examples.
        dim: the dimension of outputs that holds them.
        made: returns whether a pass of the model made the node with this number.
        values: what the passes returned, by the numbers of nodes, as far as it was kept.
    """

    batch: int
    dim: int
    made: Callable[[int], bool]
    values: Mapping[int, Tensor]

    def has_rows(self, shape: torch.Size) -> bool:
        """Return whether a result of this shape has a row for each example."""
        return self.rows_within(shape, shape) is not None

    def rows_within(self, shape: torch.Size, result: torch.Size) -> int | None:
        """Return the dimension of an operand that holds the examples of a result; None if none."""
        dim = self.dim if len(result) > self.dim else 0
        place = dim - max(len(result) - len(shape), 0)  # an operand may be broadcast
        holds = 0 <= place < len(shape) and shape[place] == self.batch > 1
        return place if holds and len(result) and result[dim] == self.batch else None


def met_by(outputs: Iterable[Tensor], after: After) -> str:
    """Return the operator by which an output met data of the examples; empty if none did.

    Only what the graph tells is noticed: constants that operators keep for their gradients, what
    parameters made of other data, and what was added right after the model.
    """
    for output in outputs:
        if output.grad_fn is None:
            continue
        way = _on_the_way(output.grad_fn, after.made)
        for node in way:
            # What an operator kept cannot be read after backward, nor everywhere.
            with suppress(RuntimeError, NotImplementedError, AttributeError, IndexError):
                if _meets(node, after) or _adds(node, output, way, after):
                    return str(node.name())
    return ""


def _on_the_way(root: Any, made: Callable[[int], bool]) -> dict[Any, list[Any]]:
    """Return the nodes between an output and the passes, each with those that use its result."""
    users: dict[Any, list[Any]] = {root: []}
    stack = [root]
    while stack:
        node = stack.pop()
        for before, _ in node.next_functions:
            if before is not None and not made(before._sequence_nr()):
                if before not in users:
                    users[before] = []
                    stack.append(before)
                users[before].append(node)
    found: dict[Any, list[Any]] = {}
    for node in sorted(users, key=lambda node: int(node._sequence_nr())):  # operands come first
        operands = [before for before, _ in node.next_functions if before is not None]
        if not made(node._sequence_nr()) and any(
            before in found or made(before._sequence_nr()) for before in operands
        ):
            found[node] = users[node]
    return found


def _meets(node: Any, after: After) -> bool:
    """Return whether one operand of a node on the way is data of the examples."""
    kind, shape = node.name(), node._input_metadata[0].shape
    if kind in _KEPT:
        return any(
            _differs(getattr(node, name), shape, after)
            for name in _KEPT[kind]
            if hasattr(node, name)
        )
    if kind == "IndexBackward0":
        return _picks(node._saved_indices, after)
    if kind in ("MulBackward0", "DivBackward0", "BmmBackward0"):
        names = "_saved_self", "_saved_mat2" if kind == "BmmBackward0" else "_saved_other"
        for (before, _), name in zip(node.next_functions, names, strict=True):
            constant = getattr(node, name) if before is None else None
            if constant is not None and _differs(constant, shape, after):
                return not _is_dropout(constant)
    if kind in ("CatBackward0", "StackBackward0"):
        across = node._saved_dim % 2**64 in (after.dim, (after.dim - len(shape)) % 2**64)
        if not across and any(before is None for before, _ in node.next_functions):
            return after.has_rows(shape)
    return any(_of_other_data(operand, shape, after) for operand in node.next_functions)


_KEPT = {
    "MaskedFillBackward0": ("_saved_mask",),
    "WhereBackward0": ("_saved_condition",),
    "GatherBackward0": ("_saved_index",),
    "ScatterBackward0": ("_saved_index",),
    "ScatterBackward1": ("_saved_index",),
    "ScatterAddBackward0": ("_saved_index",),
}  # fmt: skip


def _picks(indices: Sequence[Tensor | None], after: After) -> bool:
    """Return whether an index takes something else of each example."""
    if len(indices) <= after.dim or indices[after.dim] is None:
        return False  # all examples are indexed alike
    others = [one for place, one in enumerate(indices) if one is not None and place != after.dim]
    return any(one.dtype == torch.int64 and _differs(one, one.shape, after) for one in others)


def _differs(constant: Tensor, shape: torch.Size, after: After) -> bool:
    """Return whether a constant has other values for each example of a result of this shape."""
    place = after.rows_within(constant.shape, shape)
    return place is not None and bool((constant != constant.narrow(place, 0, 1)).any())


def _is_dropout(constant: Tensor) -> bool:
    """Return whether a factor is what dropout multiplies by on the CPU: 0, or 1 / (1 - p)."""
    largest = constant.max()
    return bool(largest > 1) and bool(((constant == 0) | (constant == largest)).all())


def _of_other_data(operand: Operand, shape: torch.Size, after: After) -> bool:
    """Return whether an operand has rows of the batch that parameters made of other data."""
    node, result = operand
    if node is None or node.name() == _autograd.LEAF:
        return False
    if after.rows_within(node._input_metadata[result].shape, shape) is None:
        return False
    seen, stack, of_data = {node}, [node], False
    while stack:
        one = stack.pop()
        if after.made(one._sequence_nr()):
            return False
        operands = [before for before, _ in one.next_functions]
        of_data |= one.name() in _autograd.LOOKUPS
        of_data |= any(operands[at] is None for at in _DATA.get(one.name(), ()))
        new = {one for one in operands if one is not None} - seen
        seen |= new
        stack.extend(new)
    return of_data


_DATA = {  # operands that are data if they have no gradient
    "AddmmBackward0": (1,),
    "MmBackward0": (0,),
    "BmmBackward0": (0,),
    "ConvolutionBackward0": (0,),
}


def _adds(node: Any, output: Tensor, way: Mapping[Any, Sequence[Any]], after: After) -> bool:
    """Return whether a node adds data to what a pass returned, or subtracts it.

    It keeps none of the two, so both are compared: what the pass returned, and the result, which is
    the output itself, or which the next operator kept.
    """
    if node.name() not in _SUMS:
        return False
    before: Any = node
    while not after.made(before._sequence_nr()):
        operands = [one for one, _ in before.next_functions if one is not None]
        if before.name() not in _SAME_ORDER or len(operands) != 1:
            return False
        (before,) = operands
    value, result = after.values.get(before._sequence_nr()), _result(node, output, way)
    if value is None or result is None or value.numel() != result.numel():
        return False
    returned = value.view(result.shape).to(result.dtype)
    return all(_spreads(change, after) for change in (result - returned, result + returned))


def _result(node: Any, output: Tensor, way: Mapping[Any, Sequence[Any]]) -> Tensor | None:
    """Return a node's result, perhaps reshaped, as far as it can be found; NaN is unknown."""
    while node is not output.grad_fn:
        for user in way.get(node, ()):
            operands = [before for before, _ in user.next_functions]
            for place, name in _KEPT_OPERANDS.get(user.name(), ()):
                if operands[place] is node:
                    kept: Tensor | None = getattr(user, name)
                    return None if kept is None else kept.detach()
            if user.name() == "ReluBackward0":  # the sum, where it is positive
                kept = user._saved_result.detach()
                return kept.where(kept > 0, torch.nan)
        users = [user for user in way.get(node, ()) if user.name() in _SAME_ORDER]
        if len(users) != 1:
            return None
        (node,) = users
    return output.detach()


_SUMS = ("AddBackward0", "SubBackward0", "RsubBackward1")
_KEPT_OPERANDS: dict[str, tuple[tuple[int, str], ...]] = {
    "AddmmBackward0": ((1, "_saved_mat1"),),
    "MmBackward0": ((0, "_saved_self"),),
    "BmmBackward0": ((0, "_saved_self"),),
    "ConvolutionBackward0": ((0, "_saved_input"),),
    "NativeLayerNormBackward0": ((0, "_saved_input"),),
    "NativeBatchNormBackward0": ((0, "_saved_input"),),
    "MulBackward0": ((0, "_saved_self"),),
    "PowBackward0": ((0, "_saved_self"),),
    "AbsBackward0": ((0, "_saved_self"),),
    "GeluBackward0": ((0, "_saved_self"),),
    "SiluBackward0": ((0, "_saved_self"),),
}  # operators that keep an operand, and where
_SAME_ORDER = {
    *_SUMS, "SqueezeBackward0", "SqueezeBackward1", "SqueezeBackward2", "UnsqueezeBackward0",
    "ViewBackward0", "ReshapeAliasBackward0", "UnsafeViewBackward0", "ToCopyBackward0",
}  # fmt: skip


def _spreads(change: Tensor, after: After) -> bool:
    """Return whether a change differs between the examples by more than rounding; NaN is none."""
    place = after.rows_within(change.shape, change.shape)
    if place is None:
        return False
    largest = change.nan_to_num(-torch.inf, -torch.inf, -torch.inf).amax(place)
    smallest = change.nan_to_num(torch.inf, torch.inf, torch.inf).amin(place)
    return bool(largest.sub(smallest).gt(change.nan_to_num().abs().max() / 100).any())
