"""Find out whether code runs inside a function that has its own backward, as reversible layers do.

Such a `torch.autograd.Function` runs modules without a graph, and computes their gradients from
what it saved: a reversible layer reconstructs its input from its output. That knows of no mix of a
state in between, so the gradients would be wrong.
"""

import inspect
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

from manifold_mixup._callers import callers

REASON = (
    "it runs inside {}, a torch.autograd.Function that computes gradients itself, without the mix: "
    "they would be wrong. Mix a layer before or after that function"
)


def function_around() -> str:
    """Name the function with its own backward that runs this code without a graph; empty if none.

    An activation checkpoint is none, because it repeats the mix in backward.
    """
    if torch.is_grad_enabled():
        return ""
    known = _known()
    for frame in callers():
        name = known.get(frame.f_code) or _by_context(frame)
        if name and not _is_checkpoint(name):
            return name
    return ""


def function_traced() -> str:
    """Name the function with its own backward that the compiler traces; empty if none.

    Call it in Python that the compiler runs while it traces.
    """
    variables: list[Any] = [frame.f_locals.get("self") for frame in callers()]
    kinds = [type(variable).__name__ for variable in variables]
    if _DIFFERENTIATED not in kinds:
        return ""
    traced = zip(variables, kinds, strict=True)
    names = [variable.fn_cls.__name__ for variable, kind in traced if kind == _FUNCTION]
    return next((name for name in names if not _is_checkpoint(name)), "")


# The compiler's classes for functions with their own backward.
_FUNCTION, _DIFFERENTIATED = "AutogradFunctionVariable", "AutogradFunctionApplyVariable"


def _is_checkpoint(name: str) -> bool:
    """Return whether a function is an activation checkpoint, by its name.

    Unsloth's is an ``Unsloth_Offloaded_Gradient_Checkpointer``, but the
    ``InvertibleCheckpointFunction`` of MemCNN reconstructs its input.
    """
    name = name.lower()
    return "checkpoint" in name and "inver" not in name and "rever" not in name


def _by_context(frame: FrameType) -> str:
    """Name the `Function` whose forward, perhaps wrapped, runs in a frame; empty if none does."""
    if frame.f_code.co_name != "forward":
        return ""
    first = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
    if isinstance(first, FunctionCtx):
        return str(getattr(type(first), "_forward_cls", type(first)).__name__)
    return ""


def _known() -> dict[CodeType, str]:
    """Map the code of the forward of each known `Function` to its name."""
    found = {}
    for kind in _subclasses(Function):
        code = getattr(inspect.unwrap(kind.forward), "__code__", None)
        if code is not None:
            found[code] = kind.__name__
    return found


def _subclasses(kind: Any) -> Iterator[Any]:
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)
