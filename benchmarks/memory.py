"""Peak memory of a training step: with mixing at one layer against without.

On the CPU it is counted, in bytes of the tensors that are alive at once beyond those before the
step; on a GPU its allocator is asked.
"""

from collections.abc import Callable

import torch

from benchmarks import counts, steps
from benchmarks.tasks import Task


def peaks(task: Callable[[], Task], device: str) -> dict[str, int]:
    """Return the bytes of a plain step, and of one that mixes at the first layer and so on.

    Args:
        task: makes the model and its batch anew.
        device: where they are.
    """
    peak = _of_the_allocator if torch.device(device).type == "cuda" else _counted
    found = {"plain step": peak(steps.plain(task()))}
    layers = task().layers
    for layer in (layers[0], layers[len(layers) // 2], layers[-1]):
        found[layer] = peak(steps.ours(task(), (layer,)))
    return found


def _counted(step: Callable[[], None]) -> int:
    return counts.count(step).peak


def _of_the_allocator(step: Callable[[], None]) -> int:
    step()  # the first one also makes what is kept: the state of the optimizer
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
