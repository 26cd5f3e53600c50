"""Count floating point operations by PyTorch's formulas."""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from manifold_mixup._dry_run.neutral import operator_name
from manifold_mixup._tree import tensors_in


class Flops:
    """Counts the operations of calls, once for all calls with arguments of the same shapes."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], int] = {}

    def of(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
        """Count the operations of a call; 0 if there is no formula."""
        formula = _formula(func)
        if formula is None:
            return 0
        key = (func, *map(_shape, args), *map(_shape, kwargs.values()), _shape(result))
        if key not in self._known:
            self._known[key] = int(formula(*args, **kwargs, out_val=result))
        return self._known[key]


def _shape(value: Any) -> Any:
    """Return the shape of a tensor, or the shapes of those in a list; anything else as it is."""
    if isinstance(value, Tensor):
        return value.shape
    return tuple(map(_shape, value)) if isinstance(value, list | tuple) else value


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
