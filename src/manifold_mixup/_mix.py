"""The tensor operation of Manifold Mixup, with its gradient: rows are mixed with others."""

import inspect
from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _autograd, _interpolate, _select
from manifold_mixup._interpolate import interpolate, over_rows
from manifold_mixup._operators import stored


def is_continuous(x: Tensor) -> bool:
    """Return whether ``x`` is floating point or complex, so that it can be interpolated."""
    return x.is_floating_point() or x.is_complex()


def apply(
    x: Tensor, lam: Tensor, perm: Tensor, *, repeats: bool = False, inside: Tensor | None = None
) -> Tensor:
    """Mix tensors whose dtype and batch size were already checked.

    Args:
        x: the state.
        lam: λ, ``()`` or ``(batch,)``; or a weight of each position, with as many dimensions as
            ``x``, bool to select.
        perm: the partners, ``(batch,)``.
        repeats: whether some rows are partners of several others.
        inside: bool with as many dimensions as ``x``: where rows are mixed, if they keep the rest.
            Then ``lam`` is λ.

    Raises:
        TypeError: the tensor is nested, sparse or a DTensor.
    """
    if torch.compiler.is_compiling():
        lam, perm = _matched_to(x, lam, perm)
        return _compiled(x, lam, perm, repeats, inside)
    if type(x).__name__ == "DTensor":
        raise TypeError(_SHARDED.format(tuple(x.shape), getattr(x, "placements", ())))
    run = _apply_unseen if _autograd.count_of_modes() else apply_eagerly
    return run(x, lam, perm, repeats=repeats, inside=inside)


def apply_eagerly(
    x: Tensor, lam: Tensor, perm: Tensor, *, repeats: bool = False, inside: Tensor | None = None
) -> Tensor:
    """Mix as `apply` does, outside of compiled code."""
    usual = lam.dtype == x.dtype == torch.float32 and x.layout is torch.strided
    if not usual or perm.device != x.device or x.is_nested:
        lam, perm = _matched_to(x, lam, perm)
    if _autograd.in_forward_mode():
        # torch.compile accepts no Function with a forward-mode rule; these operators have their
        # own.
        return _mix_in_one_expression(x, lam, None, perm, inside)
    if _autograd.in_transform():
        return _Mix.apply(x, lam, None, perm, None, repeats, inside)  # type: ignore[no-any-return]
    if not (x.requires_grad and torch.is_grad_enabled()):
        return _mix_eagerly(x, lam, None, perm, inside)
    if not repeats and inside is None and _interpolate.is_small(x, lam):
        return _SmallMix.apply(x, lam, perm)  # type: ignore[no-any-return]
    return _EagerMix.apply(x, lam, None, perm, None, repeats, inside)  # type: ignore[no-any-return]


_apply_unseen = _autograd.unseen(apply_eagerly)


def _matched_to(x: Tensor, lam: Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Return λ and the partners for a state: on its device, λ in the dtype of the arithmetic.

    Raises:
        TypeError: the state is nested or sparse.
    """
    if x.is_nested or x.layout is not torch.strided:
        raise TypeError(
            f"a {'nested' if x.is_nested else 'sparse'} tensor of shape {tuple(x.shape)} cannot be "
            f"mixed: {_IRREGULAR[x.is_nested]}"
        )
    if perm.device != x.device:  # the layers of one model may lie on several devices
        non_blocking = x.device.type != "cpu"  # the CPU might read before the copy has arrived
        lam, perm = (part.to(x.device, non_blocking=non_blocking) for part in (lam, perm))
    if lam.dtype != torch.bool and not lam.dtype == x.dtype == torch.float32:
        lam = lam.to(torch.promote_types(x.dtype, torch.float32))
    return lam, perm


_IRREGULAR = {
    True: (
        "its rows differ in length. Pad it with torch.nested.to_padded_tensor and pass the model a "
        "mask, or mix a layer after the pooling, where all rows have the same length."
    ),
    False: "make it dense with to_dense(), or mix a layer after the one that reads it.",
}


_SHARDED = (
    "a DTensor of shape {}, placed as {}, cannot be mixed. Attach after parallelize_module, let "
    "the layer return the part of this rank with all rows of the batch (use_local_output=True, "
    "or to_local()), and give all ranks the same seed, or one plan: with mixup.using(plan)."
)


def _compiled(x: Tensor, lam: Tensor, perm: Tensor, repeats: bool, inside: Tensor | None) -> Tensor:
    if not _interpolate.is_channels_last(x):
        return _Mix.apply(x, lam, None, perm, None, repeats, inside)  # type: ignore[no-any-return]
    # The compiler makes the gradient of a Function contiguous, so the state must be.
    own = lam.movedim(1, -1) if lam.ndim > 1 else lam
    inside = None if inside is None else inside.movedim(1, -1)
    mixed = _Mix.apply(x.movedim(1, -1), own, None, perm, None, repeats, inside)
    return mixed.movedim(-1, 1)  # type: ignore[no-any-return]


class _Mix(torch.autograd.Function):
    """``own[i] * x[i] + other[i] * x[perm[i]]``, whose gradient has the same form.

    An ``other`` of None means ``1 - own``. The gradient of a gather by ``perm`` is a gather by its
    inverse, so the backward pass is the same operation with the inverse permutation. PyTorch's own
    backward would scatter, which is several times slower. With ``repeats``, when ``perm`` has no
    inverse, it does scatter. Outside of ``inside``, the operation is the identity.
    """

    @staticmethod
    def forward(
        x: Tensor,
        own: Tensor,
        other: Tensor | None,
        perm: Tensor,
        inverse: Tensor | None,
        repeats: bool,
        inside: Tensor | None,
    ) -> Tensor:
        del inverse, repeats  # only the derivatives need them
        return _mix_by_weights(x, own, other, perm, inside)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        del output
        _, own, other, perm, inverse, ctx.repeats, inside = inputs
        ctx.save_for_backward(own, other, perm, inverse, inside)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        own, other, perm, inverse, inside = ctx.saved_tensors
        if ctx.repeats:
            return _scatter(grad, own, perm, inside), *_NO_GRADIENTS
        if inverse is None:
            inverse = _invert(perm)
        if own.ndim and (own.ndim == 1 or len(own) > 1):
            # The gradient of row j is its own term plus that of the row whose partner it was,
            # weighted by that row's coefficient.
            other = (_partner_weight(own) if other is None else other)[inverse]
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # higher derivatives
            kind = _Mix if _autograd.in_transform() else _EagerMix
            return kind.apply(grad, own, other, inverse, perm, False, inside), *_NO_GRADIENTS
        return _mix_by_weights(grad, own, other, inverse, inside), *_NO_GRADIENTS

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Mix a batch of batches."""
        if in_dims[0] is not None and not any(dim is not None for dim in in_dims[1:]):
            # Only the state is batched, so the extra dimension acts as a feature dimension.
            moved = inputs[0].movedim(in_dims[0], -1)
            own, other, inside = (
                weight.unsqueeze(-1) if weight is not None and weight.ndim > 1 else weight
                for weight in (inputs[1], inputs[2], inputs[6])
            )
            return _Mix.apply(moved, own, other, *inputs[3:6], inside), -1
        pairs = list(zip(inputs, in_dims, strict=True))
        each = (
            [value if dim is None else value.select(dim, index) for value, dim in pairs]
            for index in range(info.batch_size)
        )
        return torch.stack([_Mix.apply(*arguments) for arguments in each]), 0


# PyTorch reads the signature at every call, and computing it costs more than mixing a small batch.
_Mix.forward.__signature__ = inspect.signature(_Mix.forward)  # type: ignore[attr-defined]


class _EagerMix(torch.autograd.Function):
    """The same in the form that no transform of torch.func takes.

    PyTorch binds the arguments of `_Mix` to a signature at each call, which takes longer than
    mixing a small batch. It does not do so for this form.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        own: Tensor,
        other: Tensor | None,
        perm: Tensor,
        inverse: Tensor | None,
        repeats: bool,
        inside: Tensor | None,
    ) -> Tensor:
        ctx.repeats = repeats
        ctx.save_for_backward(own, other, perm, inverse, inside)
        return _mix_eagerly(x, own, other, perm, inside)

    backward = _Mix.backward


class _SmallMix(torch.autograd.Function):
    """The same for a small state and a permutation, in the fewest operators."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, own: Tensor, perm: Tensor) -> Tensor:
        ctx.save_for_backward(own, perm)
        return _interpolate.mix_small(x, own, perm)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        own, perm = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return _interpolate.mix_back(grad, own, perm), None, None
        inverse = _invert(perm)  # higher derivatives
        other = _partner_weight(own)[inverse] if own.ndim else None
        return _EagerMix.apply(grad, own, other, inverse, perm, False, None), None, None


_NO_GRADIENTS = (None,) * 6  # of all arguments but the state


def _mix_by_weights(
    x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor, inside: Tensor | None
) -> Tensor:
    if torch.compiler.is_compiling():
        return _mix_in_one_expression(x, own, other, perm, inside)
    return _mix_eagerly(x, own, other, perm, inside)


def _mix_eagerly(
    x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor, inside: Tensor | None
) -> Tensor:
    if own.dtype == torch.bool:
        return _select.select(x, own, other, perm)
    return interpolate(x, own, other, perm, inside)


def _mix_in_one_expression(
    x: Tensor, own: Tensor, other: Tensor | None, perm: Tensor, inside: Tensor | None
) -> Tensor:
    if own.dtype == torch.bool:
        return _select.select_in_one_expression(x, own, other, perm)
    mixed = _interpolate.in_one_expression(x, own, other, perm)
    return mixed if inside is None else torch.where(stored(inside), mixed, x)


def _partner_weight(own: Tensor) -> Tensor:
    """Return what the partner gives."""
    return ~own if own.dtype == torch.bool else 1 - own


def _invert(perm: Tensor) -> Tensor:
    rows = torch.arange(perm.shape[0], device=perm.device)
    return torch.empty_like(perm).scatter_(0, perm, rows)


def _scatter(grad: Tensor, own: Tensor, perm: Tensor, inside: Tensor | None) -> Tensor:
    """Give each row its own share of the gradient, and those of all rows whose partner it is."""
    if torch.compiler.is_compiling() or not _interpolate.copies_are_large(grad):
        return _scatter_whole(grad, own, perm, inside)
    scattered = torch.empty_like(grad)
    for these in _interpolate.column_chunks(grad):
        parts = (
            part[:, these] if part is not None and part.ndim > 1 and part.shape[1] > 1 else part
            for part in (own, inside)
        )
        own_here, inside_here = parts
        assert own_here is not None
        scattered[:, these] = _scatter_whole(grad[:, these], own_here, perm, inside_here)
    return scattered


def _scatter_whole(grad: Tensor, own: Tensor, perm: Tensor, inside: Tensor | None) -> Tensor:
    exact = own.dtype if own.dtype != torch.bool else torch.promote_types(grad.dtype, torch.float32)
    if grad.dtype != exact:
        return _scatter_whole(grad.to(exact), own, perm, inside).to(grad.dtype)
    if own.dtype == torch.bool:
        kept, passed_on = torch.where(own, grad, 0), torch.where(own, 0, grad)
    else:
        kept = grad * over_rows(own, grad)
        if inside is not None:
            kept = torch.where(inside, kept, grad)
        passed_on = grad - kept
    if torch.compiler.is_compiling():
        return kept.index_add(0, perm, passed_on)
    return kept.index_add_(0, perm, passed_on)  # keeps the memory format


IN_BACKWARD = (
    _Mix.backward, _SmallMix.backward, _mix_by_weights, _mix_eagerly, _mix_in_one_expression,
    _partner_weight, _invert, _scatter, _scatter_whole, *_interpolate.IN_BACKWARD,
    *_select.IN_BACKWARD,
)  # fmt: skip
"""The functions that the autograd engine calls, which the compiler sees as separate frames."""
