"""Peak memory of a training step, with mixing at a layer and without.

Only memory beyond that before the step counts. On the CPU, it is the bytes of tensors that are
alive at the same time; on a GPU, the allocator reports it.
"""

from collections.abc import Callable

import torch

from benchmarks import counts, steps
from benchmarks.tasks import Task


def peaks(task: Callable[[], Task], device: str) -> dict[str, int]:
    """Return the bytes of a plain step, and of steps that mix at the first, middle and last layer.

    Args:
        task: returns a new model and batch.
        device: their device.
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
    step()  # the first step also allocates the state of the optimizer
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
