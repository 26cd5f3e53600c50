"""Count floating point operations by PyTorch's formulas."""

import functools
from collections.abc import Callable
from typing import Any

from manifold_mixup._dry_run.neutral import operator_name
from manifold_mixup._structure.operation import tensors_in


def flops_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Count the floating point operations of a call by PyTorch's formulas; 0 if there is none."""
    formula = _formula(func)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result))


@functools.cache
def _formula(func: Any) -> Callable[..., int] | None:
    from torch.utils.flop_counter import flop_registry

    formula: Callable[..., int] | None = flop_registry.get(getattr(func, "_overloadpacket", None))
    if formula is not None:
        return formula
    name = operator_name(func)
    if name.startswith("_scaled_dot_product"):  # device-specific variants
        return _flops_of_attention
    return _flops_of_recurrence if "rnn" in name else None


def _flops_of_attention(*args: Any, **_: Any) -> int:
    from torch.utils.flop_counter import sdpa_flop_count

    return int(sdpa_flop_count(*(tensor.shape for tensor in args[:3])))


def _flops_of_recurrence(*args: Any, **_: Any) -> int:
    """Count those of a fused recurrent layer, which uses each weight once per step and example."""
    weights = sum(tensor.numel() for tensor in tensors_in(args[1:]) if tensor.ndim == 2)
    return 2 * int(args[0].shape[0] * args[0].shape[1]) * weights
