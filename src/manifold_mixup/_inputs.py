"""The model's inputs: their names, the batch they carry, and mixing one of them."""

import functools
import inspect
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from manifold_mixup._layers import INPUT
from manifold_mixup._masks import is_side
from manifold_mixup._mix import is_continuous
from manifold_mixup._tree import leaves, map_leaves


def named_inputs(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Tensor]]:
    """List ``(name, tensor)`` for every tensor passed to ``forward``.

    The name is the parameter's name, followed by the keys inside it: ``"batch.pixel_values"``.
    """
    if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):  # nearly always
        return [(_positional(model, 1)[0], args[0])]
    values = named_values(model, args, kwargs)
    return [leaf for name, value in values for leaf in leaves(value, name)]


def named_values(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Any]]:
    """List ``(name, value)`` for every argument of ``forward``; the parameter gives the name."""
    return [*zip(_positional(model, len(args)), args, strict=True), *kwargs.items()]


def defaults(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[tuple[str, Any]]:
    """List ``(name, value)`` for every argument of ``forward`` that a call leaves out."""
    return [
        (one.name, one.default)
        for one in _parameters(model)[len(args) :]
        if one.name not in kwargs and one.default is not one.empty
    ]


def map_inputs(
    fn: Callable[[str, Tensor], Tensor],
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Rebuild the arguments of ``forward`` with ``fn(name, tensor)`` in place of every tensor."""
    names = _positional(model, len(args))
    new_args = tuple(map_leaves(fn, value, name) for name, value in zip(names, args, strict=True))
    return new_args, {name: map_leaves(fn, value, name) for name, value in kwargs.items()}


def _positional(model: nn.Module, count: int) -> Sequence[str]:
    """Name the first ``count`` positional arguments of ``model.forward``."""
    if "forward" in vars(model):  # replaced on this one instance
        return _named_positions(_parameters(model), count)
    return _method_positions(type(model).forward, count)


@functools.lru_cache(maxsize=64)
def _method_positions(forward: Callable[..., Any], count: int) -> Sequence[str]:
    """Name the arguments of a method; cached, because every forward pass asks."""
    return _named_positions(_method_parameters(forward), count)


def _named_positions(parameters: Iterable[inspect.Parameter], count: int) -> Sequence[str]:
    names: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}.{index}" for index in range(count - len(names))]
        elif parameter.kind is not parameter.VAR_KEYWORD:
            names.append(parameter.name)
    # A call with too many arguments fails in forward itself, with the better message.
    names += [str(index) for index in range(len(names), count)]
    return tuple(names[:count])


def accepts(model: nn.Module, name: str) -> bool:
    """Return whether ``forward`` has an argument of this name, or accepts any name."""
    kinds = {parameter.name: parameter.kind for parameter in _parameters(model)}
    return name in kinds or inspect.Parameter.VAR_KEYWORD in kinds.values()


def _parameters(model: nn.Module) -> tuple[inspect.Parameter, ...]:
    if "forward" in vars(model):  # replaced on this one instance
        return tuple(inspect.signature(model.forward).parameters.values())
    return _method_parameters(type(model).forward)


@functools.lru_cache(maxsize=64)
def _method_parameters(forward: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    """List the parameters of a method except self; cached, as is what is made of them."""
    return tuple(inspect.signature(forward).parameters.values())[1:]


def leading(inputs: list[tuple[str, Tensor]], name: str | None = None) -> Tensor:
    """Return the tensor whose dimension 0 is the batch.

    Args:
        inputs: names and tensors.
        name: name of that tensor, if it is known. Without it, or if no tensor has it,
            `leading_names` guesses.

    Raises:
        ValueError: no input has a dimension.
    """
    if name is not None:
        for given, tensor in inputs:
            if given == name and tensor.ndim > 0:
                return tensor
    return dict(inputs)[leading_names(inputs)[0]]


def leading_names(inputs: list[tuple[str, Tensor]]) -> list[str]:
    """Name one input for each length of dimension 0, the likeliest batch first.

    The likeliest length is that of the most floating tensors with more than one number per example,
    then that of the most tensors of any kind. The first floating tensor of a length represents it.

    Raises:
        ValueError: no input has a dimension.
    """
    shaped = [(name, tensor) for name, tensor in inputs if tensor.ndim > 0]
    if not shaped:
        raise ValueError(
            "the model was called without a tensor that has a batch dimension, so there is nothing "
            "to mix. Pass the batch as tensors; tuples, lists and dicts of tensors work too. If "
            "the batch is an object, attach to a part of the model that receives tensors."
        )
    # This runs at every step, and nearly always all tensors have the same length.
    rows: dict[int, list[tuple[str, Tensor]]] = {}
    for name, tensor in shaped:
        rows.setdefault(_rows_of(name, tensor), []).append((name, tensor))
    likely = (
        sorted(rows, key=lambda size: _likelihood(size, rows[size]))
        if len(rows) > 1
        else list(rows)
    )
    return [_first_continuous(rows[size]) for size in likely]


def _rows_of(name: str, tensor: Tensor) -> int:
    try:
        return tensor.shape[0]
    except RuntimeError:  # the strided layout of nested tensors has no shape
        raise TypeError(
            f"the input {name!r} is a nested tensor of strided layout, which has no shape. Make it "
            f"with layout=torch.jagged; or pad it with torch.nested.to_padded_tensor, and pass "
            f"the model a mask."
        ) from None


def _likelihood(size: int, tensors: list[tuple[str, Tensor]]) -> tuple[bool, int, int, int]:
    """Return a sort key that puts the likeliest batch first."""
    wide = [tensor for _, tensor in tensors if tensor.ndim > 1]
    floating = sum(map(is_continuous, wide))
    return size == 1, -floating, -len(wide), -len(tensors)


def _first_continuous(tensors: list[tuple[str, Tensor]]) -> str:
    return next((name for name, tensor in tensors if is_continuous(tensor)), tensors[0][0])


def batched_names(
    inputs: list[tuple[str, Tensor]], lead: Tensor | None = None
) -> list[frozenset[str]]:
    """Return the sets of inputs that may have a batch dimension, the likeliest first.

    First come all inputs with as many rows as the batch. If the model then fails with another batch
    size, some have that many rows by chance: a mask of (time, time), or an embedding of positions.

    Args:
        inputs: names and tensors.
        lead: an input whose dimension 0 is the batch; None takes the likeliest.
    """
    lead = leading(inputs) if lead is None else lead
    rows = [(name, tensor) for name, tensor in inputs if tensor.ndim > 0]
    rows = [(name, tensor) for name, tensor in rows if len(tensor) == len(lead)]
    floating = [name for name, tensor in rows if is_continuous(tensor)]
    first = [name for name, tensor in rows if tensor is lead]
    return list(dict.fromkeys(map(frozenset, ([name for name, _ in rows], floating, first))))


def mixed_input(
    layer: str,
    inputs: list[tuple[str, Tensor]],
    mask: str | None = None,
    batch: int | None = None,
    known: Container[str] = (),
) -> str:
    """Return the name of the input that ``"input"`` or ``"input:NAME"`` refers to.

    The ``mask`` is never that input, nor is a tensor that does not have ``batch`` rows. Of several,
    it is the only one that was ``known`` when the model was inspected: others may be outputs that
    the model wrote into the same batch before.

    Raises:
        TypeError: the input is not floating point.
        ValueError: there is no such input, or ``"input"`` could mean several.
    """
    if layer == INPUT and len(inputs) == 1:  # nearly always
        name, tensor = inputs[0]
        if tensor.is_floating_point() and tensor.ndim > 0:
            return name
    # Scalars have no batch dimension: the Transformers Trainer passes the number of items as one.
    floating = [name for name, tensor in inputs if is_continuous(tensor) and tensor.ndim > 0]
    # As in find_layers, a floating mask is not data if there are other inputs.
    floating = [name for name in floating if not is_side(name, mask, floating=True)] or floating
    seen = dict(inputs)
    if len(floating) > 1 and batch is not None:
        floating = [name for name in floating if len(seen[name]) == batch] or floating
    if len(floating) > 1:
        floating = [name for name in floating if name in known] or floating
    if layer != INPUT:
        return _named(layer.removeprefix(f"{INPUT}:"), seen)
    if not floating:
        kinds = ", ".join(f"{name} ({tensor.dtype})" for name, tensor in inputs)
        raise TypeError(
            f"'input' cannot be mixed: no input is floating point, only {kinds}. Interpolated "
            f"token ids mean nothing; name the embedding layer instead."
        )
    if len(floating) > 1:
        ways = " or ".join(f"'input:{name}'" for name in floating)
        raise ValueError(
            f"'input' is ambiguous: this model has {len(floating)} such inputs. Use {ways}."
        )
    return floating[0]


def _named(name: str, seen: dict[str, Tensor]) -> str:
    if name not in seen:
        raise ValueError(f"this call has no 'input:{name}': its inputs are {list(seen)}.")
    if not is_continuous(seen[name]):
        raise TypeError(
            f"'input:{name}' cannot be mixed: it is {seen[name].dtype}. Interpolated token ids "
            f"mean nothing; name the embedding layer instead."
        )
    return name
