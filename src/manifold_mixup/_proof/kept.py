"""Name the tensors with a row for each example that a model keeps outside of its inputs."""

from torch import Tensor, nn

from manifold_mixup._dry_run.stage import Stage
from manifold_mixup._kept import attributes, package_of, tensors_in
from manifold_mixup._mix import is_continuous


def kept_states(stage: Stage, count: int) -> dict[int, str]:
    """Return the tensors with a dimension of ``count``, parameters apart: their ids, and words.

    The words are empty for one that is in no attribute of a module.
    """
    stage.reset()  # the latest run may have replaced them
    names = _names(stage.modules)
    found = {}
    for tensor in stage.tensors:
        made = stage.stand_ins[id(tensor)]
        rows = is_continuous(tensor) and count in made.shape
        if rows and not isinstance(tensor, nn.Parameter):
            name = names.get(id(made), "")
            found[id(tensor)] = name and f"{name} of shape {tuple(tensor.shape)}"
    return found


def states_of_examples(stage: Stage, rows: int) -> set[int]:
    """Return the ids of tensors in attributes, buffers apart, with a dimension of ``rows``.

    They may be states of the examples of the last batch. Call it before `Stage.replace_tensors`.
    """
    return {
        id(tensor)
        for module in stage.modules
        for value in vars(module).values()
        for tensor in tensors_in(value, package_of(module))
        if value is not module._buffers and value is not module._parameters
        if is_continuous(tensor) and rows in tensor.shape
    }


def first_examples(tensor: Tensor, rows: int, count: int) -> Tensor:
    """Return what belongs to the first ``count`` of ``rows`` examples."""
    return tensor.narrow(tensor.shape.index(rows), 0, min(count, rows)).clone()


def _names(modules: list[nn.Module]) -> dict[int, str]:
    """Name the tensors in the attributes of modules."""
    found: dict[int, str] = {}
    for module in modules:
        for name, value in attributes(module):
            for tensor in tensors_in(value, package_of(module)):
                found.setdefault(id(tensor), f"{type(module).__name__}.{name}")
    return found
