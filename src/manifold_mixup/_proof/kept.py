"""Name the tensors with a row for each example that a model keeps outside of its inputs."""

from torch import nn

from manifold_mixup._dry_run.stage import Stage
from manifold_mixup._kept import attributes, tensors_in
from manifold_mixup._mix import is_continuous


def kept_states(stage: Stage, count: int) -> dict[int, str]:
    """Return the tensors with a dimension of ``count``, parameters apart: their ids, and words."""
    stage.reset()  # the latest run may have replaced them
    names = _names(stage.modules)
    return {
        id(tensor): f"{names.get(id(stage.stand_ins[id(tensor)]), 'a tensor')} of shape "
        f"{tuple(tensor.shape)}"
        for tensor in stage.tensors
        if not isinstance(tensor, nn.Parameter) and is_continuous(tensor) and count in tensor.shape
    }


def _names(modules: list[nn.Module]) -> dict[int, str]:
    """Name the tensors in the attributes of modules."""
    found: dict[int, str] = {}
    for module in modules:
        for name, value in attributes(module):
            for tensor in tensors_in(value):
                found.setdefault(id(tensor), f"{type(module).__name__}.{name}")
    return found
