"""What mixing costs: the operators that run, and the memory that they take."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# The ways in which large states are mixed on the CPU, by the limits that choose them.
WAYS = {"row by row": {"_SHARE": 0}, "in chunks": {"_SHARE": 2**40, "_CHUNK": 90}}


class Costs(TorchDispatchMode):
    """Records the operators that ran, and the bytes of every new block of memory."""

    def __init__(self):
        super().__init__()
        self.operators, self.allocated, self._seen = [], [], {}

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        for tensor in args:
            if isinstance(tensor, torch.Tensor):
                self._note(tensor)
        result = operator(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and not operator.is_view:
            self.operators.append(operator.name())
            if self._note(result):
                self.allocated.append(result.untyped_storage().nbytes())
        return result

    def _note(self, tensor):
        storage = tensor.untyped_storage()
        fresh = storage._cdata not in self._seen
        self._seen[storage._cdata] = storage  # kept alive, so that no address is reused
        return fresh
