"""Detect, in a pass on real tensors, whether floating values cast to integers choose rows."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._mix import is_continuous
from manifold_mixup._storage import storage_of
from manifold_mixup._structure.operation import Operation
from manifold_mixup._tree import tensors_in


class Lookups(TorchDispatchMode):
    """Watches for rows that are chosen by values cast from floating point.

    Attributes:
        chosen: the numbers of the rows, in the order in which they were chosen.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.chosen: list[Tensor] = []
        self.codes: set[StorageWeakRef] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return whether PyTorch wraps each call, so that it is not compiled: nothing is here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and track casts and look-ups."""
        result = func(*args, **(kwargs or {}))
        integers = [tensor for tensor in tensors_in(result) if _is_integer(tensor)]
        if integers or self.codes:
            self._track(Operation(func, args, dict(kwargs or {})), integers)
        return result

    def _track(self, call: Operation, integers: list[Tensor]) -> None:
        """Note what an operator read and which of its results are cast, or come from such."""
        codes = (tensor for tensor in call.codes if self._key(tensor) in self.codes)
        self.chosen += [tensor.detach().clone() for tensor in codes]
        cast = bool(integers) and call.kind(set(), integer=True, new=True) == "cast"
        if cast or any(self._key(read) in self.codes for read in call.reads):
            self.codes |= set(map(self._key, integers))

    def differs(self, other: "Lookups") -> bool:
        """Return whether another pass chose other rows, which are then no mere positions."""
        if len(self.chosen) != len(other.chosen):
            return True
        return not all(map(torch.equal, self.chosen, other.chosen))

    def _key(self, tensor: Tensor) -> Any:
        return storage_of(tensor) or id(tensor)


def _is_integer(tensor: Tensor) -> bool:
    return not is_continuous(tensor) and tensor.dtype != torch.bool
