"""All access to the autograd engine and to what traces code, private names included.

Every node of the autograd graph has a sequence number, which rises on each thread. The nodes of one
forward pass therefore have a contiguous range of numbers. It shows which pass an output came from,
and which pass a backward node belongs to when it recomputes a checkpointed part.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint
from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

LEAF = "torch::autograd::AccumulateGrad"
"""The name of the nodes of leaves, such as parameters."""
LOOKUPS = ("EmbeddingBackward0", "IndexBackward0", "IndexSelectBackward0")
"""The names of nodes that choose rows."""


def _private(name: str, module: Any) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if found is None:
        raise ImportError(
            f"PyTorch {torch.__version__} has no {module.__name__}.{name}, which is needed to "
            f"trace a mixed output back to its forward pass. Please report this, and use a PyTorch "
            f"release that the changelog names."
        )
    return found  # type: ignore[no-any-return]


# Called several times a step, so without functions of our own around them.
next_number: Callable[[], int] = _private("_get_sequence_nr", torch.autograd)
"""Return the sequence number that this thread's next autograd node will get."""
running_node = _private("_current_autograd_node", torch._C)
"""Return the node whose backward runs on this thread, or None."""
in_transform: Callable[[], bool] = _private("_are_functorch_transforms_active", torch._C)
"""Return whether torch.func transforms what runs."""
in_function_mode: Callable[[], bool] = _private("_is_torch_function_mode_enabled", torch._C)
"""Return whether a mode of the user's sees the calls of PyTorch's functions."""
compiler: Callable[[], Any] = _private("get_eval_frame_callback", torch._C._dynamo.eval_frame)
"""Return what compiles the frames that run now; None outside of compiled functions."""
is_tracing: Callable[[], bool] = _private("_is_tracing", torch._C)
"""Return whether `torch.jit.trace` records what runs."""
_mode = _private("_get_dispatch_mode", torch._C)
count_of_modes: Callable[[], int] = _private("_len_torch_dispatch_stack", torch._C)
"""Return how many modes see the operators that run."""
_KEYS = torch._C._TorchDispatchModeKey
_running_task = _private("_current_graph_task_id", torch._C)


class _Here(threading.local):
    """What stands for the running thread, whose nodes have numbers of their own.

    The system gives the id of a thread that has ended to another one.
    """

    def __init__(self) -> None:
        self.thread = object()


here = _Here()


def in_forward_mode() -> bool:
    """Return whether forward-mode differentiation is on, as in `torch.func.jvp`."""
    return int(getattr(torch.autograd.forward_ad, "_current_level", -1)) >= 0


def in_wrapping_mode() -> bool:
    """Return whether new tensors have no values (fake ones), or are traced (functional ones)."""
    return _mode(_KEYS.FAKE) is not None or _mode(_KEYS.FUNCTIONAL) is not None


def unseen(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function whose operators no selective checkpoint sees.

    It keeps results by the number of the call, and does not expect that anything is written into
    them. A recomputation runs fewer operators of ours than the pass, whose plan is complete.
    """

    @functools.wraps(run)
    def running(*args: Any, **kwargs: Any) -> Any:
        if not (count_of_modes() and _keeps_results()):
            return run(*args, **kwargs)
        with _disable_current_modes():
            return run(*args, **kwargs)

    return running


def _keeps_results() -> bool:
    modes = (checkpoint._CachingTorchDispatchMode, checkpoint._CachedTorchDispatchMode)
    return any(isinstance(mode, modes) for mode in _get_current_dispatch_mode_stack())


def without_gradients(tensor: Tensor) -> Tensor:
    """Return a tensor outside of the derivatives that transforms of torch.func take of it."""
    while torch._C._functorch.is_gradtrackingtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def number_of(tensor: Tensor) -> int:
    """Return the sequence number of the node that made a tensor."""
    return int(tensor.grad_fn._sequence_nr())  # type: ignore[union-attr]


def running_number() -> int | None:
    """Return the sequence number of the node whose backward runs on this thread, or None."""
    node = running_node()
    return None if node is None else int(node._sequence_nr())


def recomputation() -> tuple[int, int | None]:
    """Return an id of the current recomputation: the backward call and its running node."""
    return int(_running_task()), running_number()


def search(tensors: Iterable[Tensor], floor: int, found: Callable[[int], bool]) -> None:
    """Walk the graph from some tensors towards its leaves, down to the number ``floor``.

    ``found`` is called with the number of every node. If it returns True, the walk does not go past
    that node.
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
