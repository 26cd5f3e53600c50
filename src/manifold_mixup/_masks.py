"""Mix padded sequences: states where both examples are valid, and masks as weights.

A padded sequence is a set of positions with weight 1 or 0. A mixed position has the weight
``w = lam * v_i + (1 - lam) * v_j``, where ``v`` is 1 at valid positions and 0 in padding. Its state
is the mean of the valid states with the same weights. Attention multiplies by ``w``, so its
additive mask holds ``log w``. λ = 1 gives the first example and λ = 0 the second.

Some masks have a row for each position that attends (a query), and rows of padding let nothing
through. Where one of the two examples is padded, it takes the row of the other, as far as its own
keys go: so a key has the weight ``w`` in every row.
"""

import torch
from torch import Tensor

from manifold_mixup import _mix
from manifold_mixup._interpolate import over_rows

# Replaces -inf, to avoid differences of infinities; as a weight it is 0 in every dtype.
_NEVER = -1e30
# An additive mask with this value or less forbids a position.
FORBIDDEN = -1e3


def is_side(name: str, mask: str | None, *, floating: bool) -> bool:
    """Return whether an input is a side input, such as a mask, rather than data."""
    return name == mask or "mask" in name.lower() or not floating


def is_named_mask(name: str) -> bool:
    """Return whether the name of an input suggests a padding mask."""
    return any(part in name.lower() for part in ("mask", "pad"))


def is_full(tensor: Tensor, name: str) -> bool:
    """Return whether an input seems to be a padding mask without any padding."""
    if not is_named_mask(name) or tensor.ndim < 2 or tensor.is_complex() or not tensor.numel():
        return False
    return bool(valid_positions(tensor, name).all())


def valid_positions(mask: Tensor, name: str) -> Tensor:
    """Return the valid (not padded) positions, ``(batch, time)``, bool.

    Args:
        mask: the mask passed to the model: bool or integers, floating weights of 0 and 1, or an
            additive mask of 0 and very negative numbers. Its shape is ``(batch, time)``, or
            ``(batch, ..., time)`` with the keys last; a key is valid if any query sees it.
        name: the mask's name. If it contains ``pad`` and the mask is not floating point, the mask
            marks padding, as PyTorch's ``src_key_padding_mask`` does.
    """
    if mask.is_floating_point():
        # Weights contain a 1; an additive mask has no value above 0.
        valid = torch.where(mask.amax() > 0, mask > 0.5, mask > -1)
    else:
        valid = (mask == 0) if "pad" in name.lower() else (mask != 0)
    return valid.flatten(1, -2).any(1) if valid.ndim > 2 else valid


def shortened(mask: Tensor, name: str) -> Tensor:
    """Return a padding mask that makes neighbouring examples differ in length, if possible.

    Args:
        mask: the mask passed to the model, in any form that `valid_positions` accepts.
        name: the mask's name.
    """
    fifths = 5 - torch.arange(len(mask), device=mask.device) % 4
    return _with_lengths(mask, name, valid_positions(mask, name).sum(1) * fifths // 5)


def with_short_examples(mask: Tensor, name: str) -> Tensor:
    """Return a padding mask in which every second example has a quarter of its length, or less."""
    whole = torch.arange(len(mask), device=mask.device) % 2 == 0
    lengths = valid_positions(mask, name).sum(1)
    return _with_lengths(mask, name, torch.where(whole, lengths, lengths // 4))


def _with_lengths(mask: Tensor, name: str, lengths: Tensor) -> Tensor:
    """Return a padding mask with examples of other lengths, ``(batch,)``, but at least 1."""
    valid = valid_positions(mask, name)
    # Add padding on the padded side: at the start if all sequences end at the last position.
    at_start = valid[:, -1].all() & ~valid[:, 0].all()
    counted = torch.where(at_start, valid.flip(1).cumsum(1).flip(1), valid.cumsum(1))
    dropped = valid & (counted > lengths.clamp(min=1)[:, None])
    dropped = dropped.view(len(valid), *(1 for _ in mask.shape[2:]), valid.shape[1])
    if mask.is_floating_point():
        nothing = torch.where(mask.amax() > 0, 0.0, torch.finfo(mask.dtype).min).to(mask.dtype)
        return torch.where(dropped, nothing, mask)
    return mask.masked_fill(dropped, "pad" in name.lower())


def mix_states(
    x: Tensor, lam: Tensor, perm: Tensor, valid: Tensor, *, repeats: bool = False
) -> Tensor:
    """Mix states ``(batch, time, *features)`` position by position.

    Where one of the two examples is padded, take the other's state.

    Args:
        x: the states.
        lam: λ, ``()`` or ``(batch,)``.
        perm: the partners, ``(batch,)``.
        valid: the valid positions, ``(batch, time)``, from `valid_positions`.
        repeats: whether some examples are partners of several others.
    """
    valid, lam = valid.to(x.device), lam.to(x.device)
    perm = perm.to(x.device)
    partner = valid[perm]
    shares = lam.view(-1, 1) if lam.ndim else lam
    shares = torch.where(partner, torch.where(valid, shares, 0.0), 1.0)
    places = torch.arange(x.shape[1], device=x.device)
    pairs = perm[:, None] * x.shape[1] + places
    mixed = _mix.apply(x.flatten(0, 1), shares.flatten(), pairs.flatten(), repeats=repeats)
    return mixed.view(x.shape)


def mix_mask(
    mask: Tensor, lam: Tensor, perm: Tensor, valid: Tensor, *, dtype: torch.dtype, weights: bool
) -> Tensor:
    """Mix a mask that a module reads.

    An additive mask stays additive, ``log(lam * exp(m_i) + (1 - lam) * exp(m_j))``. A boolean mask
    becomes additive, ``log w``. Numbers 0 and 1 become the weights ``w``.

    Args:
        mask: a mask derived from the model's, with the batch at dimension 0. Its values show its
            form.
        lam: λ, ``()`` or ``(batch,)``.
        perm: the partners, ``(batch,)``.
        valid: the valid positions, ``(batch, time)``, from `valid_positions`.
        dtype: dtype of the result if the mask is not floating point.
        weights: whether a boolean mask becomes weights instead, for a module that takes means.
    """
    valid, lam, perm = (part.to(mask.device) for part in (valid, lam, perm))
    if mask.is_floating_point():
        return _mix_numbers(mask, lam, perm)
    seen = _seen(mask, valid) if mask.dtype == torch.bool else mask
    if mask.dtype == torch.bool and not weights:
        return mix_additive(additive(seen, dtype), additive(seen[perm], dtype), lam)
    lam = over_rows(lam, mask)
    share = seen.to(torch.promote_types(dtype, torch.float32))
    return (lam * share + (1 - lam) * share[perm]).to(dtype)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the additive mask of a boolean one that is true where a position is seen."""
    forbidden = torch.finfo(dtype).min
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, forbidden)


def mix_additive(own: Tensor, other: Tensor, lam: Tensor) -> Tensor:
    """Mix additive masks, ``log(lam * exp(own) + (1 - lam) * exp(other))``.

    Args:
        own: an additive mask of the examples.
        other: that of their partners.
        lam: λ, ``()``, ``(batch,)``, or that of each element in the shape of the mask.
    """
    lam = lam.to(own.device)
    lam = over_rows(lam, own) if lam.ndim == 1 else lam
    wide = torch.promote_types(own.dtype, torch.float32)
    first = _completed(own, other).to(wide).clamp(min=_NEVER) + lam.log().clamp(min=_NEVER)
    second = _completed(other, own).to(wide).clamp(min=_NEVER) + (1 - lam).log().clamp(min=_NEVER)
    mixed = torch.logaddexp(first, second)
    return mixed.clamp(min=torch.finfo(own.dtype).min).to(own.dtype)


def _completed(mask: Tensor, other: Tensor) -> Tensor:
    """Let a query in the padding see those of its example's keys that the other example's sees."""
    if mask.ndim < 3 or mask.shape[-1] != mask.shape[-2]:
        return mask  # it has no queries
    seen = mask > FORBIDDEN
    padding, keys = ~seen.any(-1, keepdim=True), seen.any(-2, keepdim=True)
    return torch.where(padding & keys, other, mask)


def _mix_numbers(mask: Tensor, lam: Tensor, perm: Tensor) -> Tensor:
    mixed = mix_additive(mask, mask[perm], lam)
    lam = over_rows(lam, mask)
    shares = mask.to(torch.promote_types(mask.dtype, torch.float32)).clamp(0, 1)
    shares = (lam * shares + (1 - lam) * shares[perm]).to(mask.dtype)
    # If nothing is padded, both forms are the same.
    are_weights = ((mask >= 0) & (mask <= 1)).all()
    return torch.where(are_weights, shares, mixed)


def _seen(mask: Tensor, valid: Tensor) -> Tensor:
    """Return the positions that a boolean mask lets through, whichever kind it marks."""
    shape = [len(valid), *(1 for _ in mask.shape[1:])]
    shape[-1 if mask.shape[-1] == valid.shape[1] else 1] = valid.shape[1]
    marks_padding = (mask & ~valid.view(shape)).any() | ~mask.any()
    return mask ^ marks_padding
