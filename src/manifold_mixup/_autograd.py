"""What is asked of the autograd engine, private names included, in one place.

Every node of the autograd graph carries the number under which its thread made it. The numbers
rise, so those of one forward pass are a stretch of their own: they tell which pass an output came
from, and which pass a backward node belongs to when it recomputes a checkpointed part.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def _private(name: str, module: Any) -> Callable[[], Any]:
    found = getattr(module, name, None)
    if found is None:
        raise ImportError(
            f"PyTorch {torch.__version__} has no {module.__name__}.{name}, by which a mixed output "
            f"is traced back to its forward pass. Please report it; a release of PyTorch named in "
            f"the changelog works."
        )
    return found  # type: ignore[no-any-return]


_next_number = _private("_get_sequence_nr", torch.autograd)
_running_node = _private("_current_autograd_node", torch._C)
_running_task = _private("_current_graph_task_id", torch._C)


def in_forward_mode() -> bool:
    """Return whether derivatives are taken forward, as by `torch.func.jvp`."""
    return int(getattr(torch.autograd.forward_ad, "_current_level", -1)) >= 0


def next_number() -> int:
    """Return the number that the next node of the autograd graph will get on this thread."""
    return int(_next_number())


def running_number() -> int | None:
    """Return the number of the node whose backward is running on this thread, or None."""
    node = _running_node()
    return None if node is None else int(node._sequence_nr())


def recomputation() -> tuple[int, int | None]:
    """Tell one recomputation from the next: the running backward call, and the node it is at."""
    return int(_running_task()), running_number()


def search(tensors: Iterable[Tensor], floor: int, found: Callable[[int], bool]) -> None:
    """Walk the graph from some tensors towards its leaves, no deeper than the number ``floor``.

    ``found`` is called with the number of every node met; where it returns True, the walk does not
    go behind that node.
    """
    stack = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    visited = set()
    while stack:
        node = stack.pop()
        if node in visited:
            continue
        visited.add(node)
        number = int(node._sequence_nr())
        if number >= floor and not found(number):
            stack.extend(following for following, _ in node.next_functions if following is not None)
