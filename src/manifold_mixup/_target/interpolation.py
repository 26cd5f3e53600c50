"""Interpolate between the losses, or the targets, of the examples and of their partners."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from manifold_mixup import _mix
from manifold_mixup._batch_first import batch_first, undo_batch_first
from manifold_mixup._interpolate import over_rows
from manifold_mixup._mix import is_continuous
from manifold_mixup._plan import MixPlan
from manifold_mixup._tree import all_leaves, leaves, map_leaves


def holds_batch(shape: Sequence[int], batch: int, dim: int) -> bool:
    """Return whether a tensor of this shape holds the batch at ``dim``, or 0 if it has none."""
    return len(shape) > 0 and shape[dim if len(shape) > dim else 0] == batch


def of_partners(value: Any, plan: MixPlan, dim: int = 0) -> Any:
    """Return the partners' targets: every tensor with its rows permuted."""
    return map_leaves(lambda _, leaf: partner_rows(leaf, plan, dim), value)


def partner_rows(leaf: Tensor, plan: MixPlan, dim: int = 0) -> Tensor:
    """Return a tensor with its rows permuted."""
    perm = plan.perm if plan.perm.device == leaf.device else plan.perm.to(leaf.device)
    if leaf.is_nested:
        return _nested_rows(leaf, perm)
    return leaf.index_select(dim if leaf.ndim > dim else 0, perm)


def _nested_rows(leaf: Tensor, index: Tensor) -> Tensor:
    rows = leaf.unbind()
    chosen = [rows[number] for number in index.tolist()]
    return torch.nested.as_nested_tensor(chosen, layout=leaf.layout)


def interpolate_target(value: Any, plan: MixPlan, dim: int = 0) -> Any:
    """Return a target with every floating tensor mixed, and other tensors unchanged."""

    def own(_: str, leaf: Tensor) -> Tensor:
        if not is_continuous(leaf):
            return leaf
        return _mix.apply(leaf, plan.target_lam, plan.perm, repeats=plan.repeats)

    return undo_batch_first(map_leaves(own, batch_first(value, dim)), dim)


def interpolate_losses(own: Any, partner: Any, lam: Tensor) -> Any:
    """Mix two losses (tensors or containers of tensors), with the same precision as `mix`.

    Raises:
        TypeError: they hold no tensors, different sets of tensors, or Python numbers that differ.
    """
    if isinstance(own, Tensor) and isinstance(partner, Tensor):  # the most common case
        return _mixed(own, partner, lam)
    partners = dict(leaves(partner))
    if not partners or partners.keys() != dict(leaves(own)).keys():
        raise TypeError(
            f"to be mixed, a criterion must return a tensor, or the same set of tensors for every "
            f"target; this criterion returned a {type(own).__name__} with {len(dict(leaves(own)))} "
            f"tensors and a {type(partner).__name__} with {len(partners)}."
        )
    _check_numbers(own, partner)

    return map_leaves(lambda path, leaf: _mixed(leaf, partners[path], lam), own)


def _mixed(own: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    both = weighted_sum(own, partner, lam)
    if both.dtype == own.dtype or not is_continuous(own):  # counts become fractional
        return both
    return both.to(own.dtype)


def weighted_sum(own: Tensor, partner: Tensor, lam: Tensor) -> Tensor:
    """Return ``lam * own + (1 - lam) * partner`` in at least float32.

    A loss with weight 0 is ignored, even if it is infinite or NaN.
    """
    exact = torch.promote_types(own.dtype, torch.float32)
    if own.dtype != exact or partner.dtype != exact:
        own, partner = own.to(exact), partner.to(exact)
    on_host = lam.device.type == "cpu"  # reading a number needs no synchronisation
    if lam.ndim == 0 and on_host:
        share = lam.item()
        if share in (0, 1):
            return own if share else partner
        if type(own) is type(partner) is Tensor:
            return torch.add(own * share, partner, alpha=1 - share)
        return share * own + (1 - share) * partner  # a subclass may know plain arithmetic only
    weight = over_rows(lam.to(own.device), own).to(exact)
    other = 1 - weight
    if on_host:
        least, most = lam.aminmax()
        if least.item() > 0 and most.item() < 1:
            return weight * own + other * partner
    return torch.where(weight == 0, 0, weight * own) + torch.where(other == 0, 0, other * partner)


def _differ(one: Any, other: Any) -> bool:
    """Return whether two Python or NumPy numbers differ; False for anything else."""
    if not (isinstance(one, int | float) or hasattr(one, "__array__")):
        return False
    unlike = one != other
    return bool(unlike.any() if hasattr(unlike, "any") else unlike)


def _check_numbers(own: Any, partner: Any) -> None:
    """Raise TypeError if the losses hold Python numbers that depend on the target."""
    others = dict(all_leaves(partner))
    for path, number in all_leaves(own):
        if not isinstance(number, Tensor) and _differ(number, others.get(path)):
            raise TypeError(
                f"a criterion returned the number {number} at {path!r} for the targets and "
                f"{others.get(path)} for those of the partners. Only tensors can be mixed: do not "
                f"call .item()."
            )
