"""Parameters of the proof that take little memory: overlapping views of a few numbers.

A copy of all parameters in float64 takes twice the memory of the model, or four times if that is in
bfloat16. A matrix whose rows are shifted views of one row of numbers takes almost none: it is no
worse a matrix for the proof, which only needs outputs that differ between examples, and an operator
that needs it in one piece makes a copy that lives as long as the operator.

Only the parameters of PyTorch's own layers on the CPU are drawn in this way. Other code might pass
an address to a kernel that takes the numbers to be contiguous. Then there is memory at least.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manifold_mixup._proof.factors import draw

LARGE = 2**15
"""Parameters with fewer numbers are copied."""
_LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SHIFTS = (1, 7, 19, 53, 101)
"""For each dimension from the last, by how many numbers a part is shifted against the one before.

They differ, so that no two axes of a parameter can be exchanged.
"""
_PRIMES = (7, 11, 13, 17, 19, 23, 29)
"""The row of a matrix is shifted by the first of these that does not divide its length."""


def large_parameters(model: nn.Module) -> set[int]:
    """Return the ids of parameters that may be thin: large, and of PyTorch's layers alone."""
    inside: set[int] = set()
    outside: set[int] = set()
    for module in model.modules():
        ours = type(module) in _LAYERS and _has_its_forward(module)
        for parameter in module._parameters.values():
            if parameter is not None:
                fits = ours and _is_usual(parameter)
                (inside if fits else outside).add(id(parameter))
    return inside - outside


def _has_its_forward(module: nn.Module) -> bool:
    # An attached layer has the forward of its class among its own attributes, see `compiled.Mark`.
    own = vars(module).get("forward")
    return own is None or getattr(own, "__func__", None) is type(module).forward


def _is_usual(parameter: Tensor) -> bool:
    """Return whether a parameter is a large one that can be a view of a few numbers."""
    return (
        type(parameter) is nn.Parameter
        and parameter.layout is torch.strided
        and parameter.is_floating_point()
        and parameter.device.type == "cpu"
        and 1 < parameter.ndim <= len(_SHIFTS)
        and parameter.numel() >= LARGE
        and 2 * _count(parameter.shape) < parameter.numel()
    )


def thin(parameters: Sequence[Tensor], dtype: torch.dtype) -> dict[int, Tensor]:
    """Return parameters of these shapes, by the ids of the given ones, one behind the other.

    Behind the last there is room for the largest, in case one is read from its address on.
    """
    counts = [_count(parameter.shape) for parameter in parameters]
    room = max((parameter.numel() for parameter in parameters), default=0)
    memory = torch.empty(sum(counts) + room, dtype=dtype, device="cpu")
    made: dict[int, Tensor] = {}
    start = 0
    for parameter, count in zip(parameters, counts, strict=True):
        view = memory.as_strided(parameter.shape, _strides(parameter.shape), start)
        new = nn.Parameter(view, parameter.requires_grad)
        vars(new).update(vars(parameter), _pool=memory[start : start + count])
        made[id(parameter)], start = new, start + count
    return made


def draw_thin(parameter: Tensor, scale: float, generator: torch.Generator) -> None:
    """Draw the numbers of a thin parameter; those of a matrix so that its products are fast."""
    pool = vars(parameter)["_pool"]
    if parameter.ndim == 2:
        step = parameter.stride(0)
        vars(parameter)["_factors"] = draw(pool, parameter.shape, step, generator)
    else:
        pool.copy_(scale * torch.randn(len(pool), generator=generator, device="cpu"))


def _strides(shape: torch.Size) -> tuple[int, ...]:
    if len(shape) == 2:
        return next(step for step in _PRIMES if shape[1] % step), 1
    return _SHIFTS[: len(shape)][::-1]


def _count(shape: torch.Size) -> int:
    """Return how many numbers a thin parameter has."""
    return 1 + sum((size - 1) * by for size, by in zip(shape, _strides(shape), strict=True))


def pool_of(parameter: Tensor) -> Tensor | None:
    """Return the numbers of a thin parameter, ``(n,)``; None if it is not thin."""
    pool: Tensor | None = vars(parameter).get("_pool")
    return pool


def drop_gradients(model: nn.Module) -> None:
    """Have the gradient of each parameter dropped as soon as it is there, as nothing reads it."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.is_leaf:
            parameter.register_post_accumulate_grad_hook(_drop)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None
