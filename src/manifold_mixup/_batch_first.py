"""Inputs and outputs with the batch at another dimension than 0, moved to the front and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from manifold_mixup._inputs import map_inputs, named_inputs
from manifold_mixup._layers import unwrap
from manifold_mixup._mix import is_continuous
from manifold_mixup._module_hooks import hook_after, hook_before
from manifold_mixup._tree import map_leaves

Inputs = list[tuple[str, Tensor]]


def require_dimension(dim: object) -> None:
    """Raise unless ``dim`` is the number of a dimension, counted from 0."""
    if isinstance(dim, bool) or not isinstance(dim, int):
        raise TypeError(f"batch_dim must be an int, but is a {type(dim).__name__}.")
    if dim < 0:
        raise ValueError(f"batch_dim must be 0 or more, counted from the front, but is {dim}.")


def batch_first(value: Any, dim: int) -> Any:
    """Return a value with the batch in front; tensors with too few dimensions stay as they are."""
    if not dim:
        return value
    return map_leaves(lambda _, x: x.movedim(dim, 0) if x.ndim > dim else x, value)


def undo_batch_first(value: Any, dim: int) -> Any:
    """Undo `batch_first`."""
    if not dim:
        return value
    return map_leaves(lambda _, x: x.movedim(0, dim) if x.ndim > dim else x, value)


def names_to_move(inputs: Inputs, dim: int, mask: str | None = None) -> frozenset[str]:
    """Name the inputs that hold the batch at ``dim``; others have too few dimensions, or another.

    Masks of PyTorch's layers are ``(batch, time)`` although states are ``(time, batch, ...)``.

    Args:
        inputs: names and tensors.
        dim: the dimension.
        mask: name of an input that is a mask.

    Raises:
        ValueError: no input has such a dimension.
    """
    deep = [(name, tensor) for name, tensor in inputs if tensor.ndim > dim]
    if not deep:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs)
        raise ValueError(
            f"batch_dim={dim}, but no input has that dimension: {shapes or 'there are none'}."
        )
    states = [tensor for _, tensor in deep if is_continuous(tensor)] or [t for _, t in deep]
    rows = max(states, key=lambda tensor: tensor.ndim).shape[dim]
    return frozenset(
        name
        for name, tensor in deep
        if tensor.shape[dim] == rows and not (_is_mask(name, mask) and _square(tensor))
    )


def inputs_batch_first(inputs: Inputs, dim: int, mask: str | None = None) -> Inputs:
    """Return the inputs with the batch in front."""
    if not dim:
        return inputs
    names = names_to_move(inputs, dim, mask)
    return [(name, x.movedim(dim, 0) if name in names else x) for name, x in inputs]


def _is_mask(name: str, mask: str | None) -> bool:
    return name == mask or any(part in name.lower() for part in ("mask", "pad"))


def _square(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and tensor.shape[0] == tensor.shape[1]


class BatchFirstCall:
    """A call of a model with the batch in front, while `called_batch_first` is open.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        moved: names of the inputs that were moved.
        output_dims: the dimensions at which outputs held the batch, as far as that was clear.
    """

    def __init__(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], moved: frozenset[str]
    ) -> None:
        self.args, self.kwargs, self.moved = args, kwargs, moved
        self.output_dims: set[int] = set()


@contextmanager
def called_batch_first(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dim: int, mask: str | None
) -> Iterator[BatchFirstCall]:
    """Let a model be called with the batch in front, and return it there, inside the context.

    Everything inside sees dimension 0 as the batch. Two hooks on the model itself move the
    arguments and the outputs.

    Args:
        model: the model.
        args: positional arguments with the batch at ``dim``.
        kwargs: keyword arguments.
        dim: the dimension; 0 changes nothing.
        mask: name of the padding mask among the inputs.
    """
    if not dim:
        yield BatchFirstCall(args, kwargs, frozenset())
        return
    core = unwrap(model)
    moved = names_to_move(named_inputs(core, args, kwargs), dim, mask)

    def to_front(name: str, x: Tensor) -> Tensor:
        return x.movedim(dim, 0) if name in moved else x

    call = BatchFirstCall(*map_inputs(to_front, core, args, kwargs), moved)
    rows = 0

    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        nonlocal rows
        rows = next(len(x) for name, x in named_inputs(core, args, kwargs) if name in moved)
        return map_inputs(
            lambda name, x: x.movedim(0, dim) if name in moved else x, core, args, kwargs
        )

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        return map_leaves(lambda _, x: _output_to_front(x, dim, rows, call.output_dims), output)

    handles = [hook_before(core, enter), hook_after(core, leave)]
    try:
        yield call
    finally:
        for handle in handles:
            handle.remove()


def _output_to_front(x: Tensor, dim: int, rows: int, seen: set[int]) -> Tensor:
    if x.ndim <= dim:
        return x
    dims = [place for place in (dim, 0) if x.shape[place] == rows]
    if len(dims) == 1:
        seen.update(dims)
    return x.movedim(dim, 0) if dim in dims else x
