"""Find out whether code runs inside a function that has its own backward, as reversible layers do.

Such a `torch.autograd.Function` runs modules without a graph, and computes their gradients from
what it saved: a reversible layer reconstructs its input from its output. That knows of no mix of a
state in between, so the gradients would be wrong.
"""

import inspect
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.autograd import Function
from torch.autograd.function import FunctionCtx

REASON = (
    "it runs inside {}, a torch.autograd.Function that computes gradients itself, without the mix: "
    "they would be wrong. Mix a layer before or after that function"
)


def function_around() -> str:
    """Name the function with its own backward that runs this code without a graph; empty if none.

    An activation checkpoint is none, because it repeats the mix in backward.
    """
    frame: FrameType | None = None if torch.is_grad_enabled() else sys._getframe(1)
    while frame is not None:
        name = _function_of(frame) if frame.f_code.co_name == "forward" else ""
        if name and not name.startswith("Checkpoint"):
            return name
        frame = frame.f_back
    return ""


def _function_of(frame: FrameType) -> str:
    """Name the `Function` whose forward runs in a frame; empty if it is another forward."""
    first = frame.f_locals.get(next(iter(frame.f_code.co_varnames), ""))
    if isinstance(first, nn.Module):  # nearly always
        return ""
    if isinstance(first, FunctionCtx):
        return str(getattr(type(first), "_forward_cls", type(first)).__name__)
    return _without_context().get(frame.f_code, "")  # one with setup_context


def _without_context() -> dict[CodeType, str]:
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
