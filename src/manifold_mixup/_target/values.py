"""Notice writes into a criterion's tensors that no version counter shows, by their values."""

from torch import Tensor, nn, strided

from manifold_mixup._target.namespaces import Namespace
from manifold_mixup._target.state import tensors_in

_MOST = 2**24
"""Elements that are copied; a criterion may refer to a whole network."""


class Values:
    """The values of a criterion's tensors at the time of construction.

    Writes through ``.data`` or NumPy are seen by them, and into tensors in lists and dicts.
    """

    def __init__(self, namespaces: list[Namespace]) -> None:
        self._before: list[tuple[str, Tensor, Tensor]] = []
        left = _MOST
        for name, tensor in tensors_in(namespaces):
            usual = type(tensor) in (Tensor, nn.Parameter) and tensor.layout is strided
            if usual and not tensor.is_meta and tensor.numel() <= left:
                left -= tensor.numel()
                self._before.append((name, tensor, tensor.detach().clone()))

    def changed(self) -> str:
        """Return the name of a tensor that has other values now; empty if there is none."""
        for name, tensor, before in self._before:
            now = tensor.detach()
            if now.shape != before.shape or bool(((now != before) & ~now.isnan()).any()):
                return name
        return ""
