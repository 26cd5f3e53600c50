"""A mask of two examples at once, for modules that read a mask as yes or no.

A boolean cannot hold a weight. So what a module computes from a mask alone, it computes for both
examples. Where the result forbids attention scores, or is added to them, the scores get the mixed
mask: the logarithm of ``lam`` times what one example allows plus ``1 - lam`` times what the other
does. What it switches off otherwise, such as states in the padding, is off where both switch it
off.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from manifold_mixup._attach.mask_rows import moves, permutes, rows_after, rows_by
from manifold_mixup._masks import FORBIDDEN, additive, mix_additive
from manifold_mixup._tree import all_leaves, leaves, map_leaves


class MaskPair(Tensor):
    """The mask of an example, which has that of its partner with it.

    Attributes:
        other: the mask of the partner.
        lam: λ, ``()`` or ``(batch,)``.
        rows: with a λ for each example, the example of each element, in the shape of the mask.
    """

    other: Tensor
    lam: Tensor
    rows: Tensor | None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function on both masks, or on states and the mixed mask."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "_is_view":  # asked of the inputs of compiled code
            raise RuntimeError(_BROKEN)
        with torch._C.DisableTorchFunctionSubclass():  # which also gives plain results
            if _reads_states(func, args, kwargs):
                return _on_states(func, args, kwargs)
            own = func(*args, **kwargs)
            if not isinstance(own, Tensor | tuple | list) and func not in _WITH_VALUES:
                return own  # a size, a dtype
            other = func(*_partners(args), **_partners(kwargs))
            return _joined(func, own, other, args, kwargs)


def pair(own: Tensor, other: Tensor, lam: Tensor, batch_dim: int = 0) -> MaskPair:
    """Join the masks of the examples with those of their partners.

    Args:
        own: a mask in any form.
        other: the same in the order of the partners.
        lam: λ, ``()`` or ``(batch,)``.
        batch_dim: the dimension that holds the batch.
    """
    return _paired(own, other, lam, rows_by(own, batch_dim) if lam.ndim else None)


def require_none(output: Any) -> None:
    """Raise if a model returns what it computed from the masks of both examples."""
    found = next(_pairs(output), None)
    if found is not None:
        raise RuntimeError(
            f"the model returns a padding mask of shape {tuple(found.shape)} that a module "
            f"computed from the masks of two examples. Return the mask that the model was given."
        )


def _paired(own: Tensor, other: Tensor, lam: Tensor, rows: Tensor | None) -> MaskPair:
    joined = own.as_subclass(MaskPair)
    joined.other, joined.lam, joined.rows = other, lam, rows
    return joined


def _share(mask: MaskPair) -> Tensor:
    """Return λ, or that of each element."""
    return mask.lam if mask.rows is None else mask.lam[mask.rows]


def _plain(mask: MaskPair) -> Tensor:
    """Return the mask of the example alone; compiled code cannot cast a class back."""
    return mask.view(mask.shape)  # plain while functions of subclasses are disabled


def _pairs(value: Any) -> Iterator[MaskPair]:
    for _, tensor in leaves(value):
        if isinstance(tensor, MaskPair):
            yield tensor


def _partners(value: Any) -> Any:
    return map_leaves(lambda _, t: t.other if isinstance(t, MaskPair) else t, value)


def _reads_states(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a function is given values besides masks, and does not only take a shape."""
    if func in _SHAPES:
        return False
    given = (tensor for _, tensor in leaves((args, kwargs)) if not isinstance(tensor, MaskPair))
    return any(tensor.is_floating_point() and tensor.ndim for tensor in given)


# What is computed from masks alone


def _joined(func: Any, own: Any, other: Any, args: Any, kwargs: Any) -> Any:
    """Return the results for both examples as one."""
    first = next(_pairs((args, kwargs)))
    if func in _PLACES or func in _WITH_VALUES:
        if func not in _WRITES:
            _require_equal(func, own, other)
        return own
    others, rows = dict(leaves(other)), _rows_of(func, own, args, kwargs)

    def join(path: str, tensor: Tensor) -> Tensor:
        if path not in others:
            return tensor  # what only one of them has, such as a base of which it is a view
        if isinstance(tensor, MaskPair):
            return tensor
        joined = _paired(tensor, others[path], first.lam, rows.get(path))
        if tensor.is_floating_point() and _forbids(args, kwargs):
            return mix_additive(tensor, joined.other, _share(joined))
        return joined

    return map_leaves(join, own)


def _rows_of(func: Any, own: Any, args: Any, kwargs: Any) -> dict[str, Tensor]:
    """Return the example of each element of a result, by path; empty with one λ for all."""
    given = [mask.rows for mask in _pairs((args, kwargs)) if mask.rows is not None]
    if not given:
        return {}
    if isinstance(args[0], MaskPair) and moves(func):
        return dict(leaves(func(args[0].rows, *args[1:], **kwargs)))
    if func is torch.einsum and permutes(args):
        return {"": torch.einsum(args[0], args[1].rows)}
    options = args[1:], kwargs
    return {path: rows_after(func, given, made.shape, options) for path, made in leaves(own)}


def _forbids(args: Any, kwargs: Any) -> bool:
    """Return whether a number among the arguments forbids a position."""
    values = (*args, *kwargs.values())
    return any(isinstance(value, float | int) and value <= FORBIDDEN for value in values)


def _require_equal(func: Any, own: Any, other: Any) -> None:
    """Raise unless positions, or numbers for Python, are those of the partner too."""
    pairs = zip(all_leaves(own), all_leaves(other), strict=False)
    if not all(_equal(one, two) for (_, one), (_, two) in pairs):
        raise RuntimeError(
            f"the padding mask of an example differs from its partner's where {_named(func)} takes "
            f"numbers or positions from it, and these cannot be mixed. {_WAY_OUT}"
        )


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    same = one == two
    return bool(same if isinstance(same, bool) else same.all())  # NumPy compares by element


# Where a mask meets states


def _on_states(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run a function of states and masks."""
    found = list(_pairs((args, kwargs)))
    if func in _OPERATORS:
        return _OPERATORS[func](func, *args, **kwargs)
    if any(mask.ndim for mask in found):
        raise RuntimeError(
            f"{_named(func)} reads the padding mask together with states, and has no form for a "
            f"mixed mask. {_WAY_OUT}"
        )
    for number in found:
        _require_equal(func, _plain(number), number.other)
    return func(*args, **kwargs)


def _fill(func: Any, scores: Tensor, mask: Any, value: Any) -> Tensor:
    """Run ``masked_fill``, which forbids scores if the value is very negative."""
    if not isinstance(mask, MaskPair):
        return func(scores, mask, value)  # type: ignore[no-any-return]
    filled = func(scores, mask & mask.other, value)
    return _weigh(filled, ~mask, ~mask.other, _share(mask), value, in_place=func in _IN_PLACE)


def _where(func: Any, condition: Any, one: Any, two: Any) -> Tensor:
    """Run ``where`` of which one side is a number, or both are scores."""
    if not isinstance(condition, MaskPair):
        raise RuntimeError(f"torch.where chooses between a padding mask and states. {_WAY_OUT}")
    own, other, lam = _plain(condition), condition.other, _share(condition)
    if _is_number(two):
        return _weigh(torch.where(own | other, one, two), own, other, lam, two)
    if _is_number(one):
        return _weigh(torch.where(own & other, one, two), ~own, ~other, lam, one)
    return mix_additive(torch.where(own, one, two), torch.where(other, one, two), lam)


def _is_number(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.numel() == 1


def _weigh(
    filled: Tensor, own: Tensor, other: Tensor, lam: Tensor, value: Any, *, in_place: bool = False
) -> Tensor:
    """Add the logarithm of the weights to scores that two masks allow, if the rest is forbidden.

    Args:
        filled: the scores, with ``value`` where neither mask allows them.
        own: true where the example allows them.
        other: true where its partner does.
        lam: λ, ``()``, or that of each element of the masks.
        value: what the scores are filled with; any but a very negative one forbids nothing.
        in_place: whether to write into ``filled``.
    """
    if not isinstance(value, Tensor) and value > FORBIDDEN:
        return filled
    weights = mix_additive(additive(own, filled.dtype), additive(other, filled.dtype), lam)
    # Half of the least number, added to any score, is still a number.
    weights = weights.clamp(min=torch.finfo(filled.dtype).min / 2)
    weights = torch.where((own | other) & (_tensor(value, filled) <= FORBIDDEN), weights, 0)
    return filled.add_(weights) if in_place else filled + weights


def _tensor(value: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def _add(func: Any, one: Any, two: Any, *, alpha: Any = 1, **options: Any) -> Tensor:
    """Add an additive mask to scores, or subtract one from them."""
    sign = -1 if func in _DIFFERENCES else 1
    if isinstance(two, MaskPair):
        return func(one, sign * _mixed(two, one.dtype, sign * alpha), **options)  # type: ignore[no-any-return]
    options |= {} if alpha == 1 else {"alpha": alpha}
    return func(_mixed(one, two.dtype), two, **options)  # type: ignore[no-any-return]


def _mixed(mask: MaskPair, dtype: torch.dtype, scale: float = 1) -> Tensor:
    """Return a mixed additive mask of numbers."""
    if mask.dtype == torch.bool:
        raise RuntimeError(f"a padding mask of booleans is added to states. {_WAY_OUT}")
    own, other = (
        part if part.is_floating_point() else part.to(dtype) for part in (_plain(mask), mask.other)
    )
    return mix_additive(scale * own, scale * other, _share(mask))


def _multiply(func: Any, one: Any, two: Any) -> Tensor:
    """Multiply states by a mask: both examples switch off what is 0."""
    union = [torch.maximum(v, v.other) if isinstance(v, MaskPair) else v for v in (one, two)]
    return func(*union)  # type: ignore[no-any-return]


def _attend(func: Any, query: Tensor, key: Tensor, value: Tensor, *more: Any, **named: Any) -> Any:
    """Run fused attention with the mixed mask."""
    more = tuple(_added(mask, query.dtype) for mask in more)
    named = {name: _added(mask, query.dtype) for name, mask in named.items()}
    return func(query, key, value, *more, **named)


def _attend_in_module(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the function of PyTorch's attention modules, which by now has additive masks alone."""
    dtype = args[0].dtype
    args = tuple(_added(mask, dtype) for mask in args)
    return func(*args, **{name: _added(mask, dtype) for name, mask in kwargs.items()})


def _added(mask: Any, dtype: torch.dtype) -> Any:
    if not isinstance(mask, MaskPair):
        return mask
    own, other = _plain(mask), mask.other
    if mask.dtype == torch.bool:
        own, other = additive(own, dtype), additive(other, dtype)
    return mix_additive(own, other, _share(mask))


# Functions that take no more than the form of their arguments.
_SHAPES = {Tensor.type_as, Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.to}
_SHAPES |= {torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like}
# Functions that give Python the numbers of a mask.
_NUMBERS = {Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__bool__, Tensor.__int__}
_NUMBERS |= {Tensor.__float__, Tensor.__index__, torch.equal, Tensor.equal, torch.is_nonzero}
_WRITES = {Tensor.__setitem__}
_WITH_VALUES = _NUMBERS | _WRITES  # whose result is no tensor
# Functions whose results are positions.
_PLACES = {torch.nonzero, Tensor.nonzero, torch.argwhere, Tensor.argwhere, torch.masked_select}
_PLACES |= {Tensor.masked_select}
_IN_PLACE = {Tensor.masked_fill_}
_DIFFERENCES = {torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__}
_SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}
_PRODUCTS = {torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__rmul__, Tensor.__imul__}
_OPERATORS: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _attend,
    F.multi_head_attention_forward: _attend_in_module,
    torch.where: _where,
    Tensor.where: lambda func, one, condition, two: _where(func, condition, one, two),
    **dict.fromkeys((torch.masked_fill, Tensor.masked_fill, Tensor.masked_fill_), _fill),
    **dict.fromkeys(_SUMS | _DIFFERENCES, _add),
    **dict.fromkeys(_PRODUCTS, _multiply),
}
_WAY_OUT = (
    "Give attention the mask by masked_fill, where, a sum or scaled_dot_product_attention, or mix "
    "a layer after the last module that reads the mask."
)
_BROKEN = (
    "a module that reads the padding mask as yes or no must be compiled into one graph, but the "
    "compiler breaks it in two and passes the mask on. Run that module outside of compiled code: "
    "module.forward = torch.compiler.disable(module.forward). TORCH_LOGS=graph_breaks shows where "
    "it breaks."
)


def _named(func: Any) -> str:
    return repr(getattr(func, "__name__", str(func)))
