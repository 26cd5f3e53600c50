"""Detect, in a pass on real tensors, whether floating values cast to integers choose rows."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup._mix import is_continuous
from manifold_mixup._storage import storage_of
from manifold_mixup._structure.record import Operation, tensors_in


class Lookups(TorchDispatchMode):
    """Watches for rows that are chosen by values cast from floating point.

    Attributes:
        chose: whether any rows were.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.chose = False
        self.codes: set[StorageWeakRef] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and track casts and look-ups."""
        call = Operation(func, args, dict(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        self.chose |= any(self._key(tensor) in self.codes for tensor in call.codes)
        for tensor in tensors_in(result):
            integer = not is_continuous(tensor) and tensor.dtype != torch.bool
            cast = call.kind(set(), integer=integer, new=True) == "cast"
            if integer and (cast or any(self._key(read) in self.codes for read in call.reads)):
                self.codes.add(self._key(tensor))
        return result

    def _key(self, tensor: Tensor) -> Any:
        return storage_of(tensor) or id(tensor)
