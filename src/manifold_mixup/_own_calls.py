"""Models whose class replaces the call that runs hooks, as gpytorch's do."""

import dis
import types

import torch
from torch import nn

# What a call that runs hooks mentions: that of the class above, or what it consists of.
_CALLS = {"__call__", "_call_impl", "_wrapped_call_impl"}
_WAY_OUT = "put the model into an nn.Module whose forward calls it, attach to that, and call it"


def class_with_own_call(model: nn.Module) -> type | None:
    """Return the class of a model that replaces ``nn.Module.__call__``; None if none does."""
    kind = next(kind for kind in type(model).__mro__ if "__call__" in vars(kind))
    known = kind in (nn.Module, torch.jit.ScriptModule) or kind.__module__.startswith("torch.")
    return None if known else kind


def remark(model: nn.Module) -> str:
    """Return a remark on a model whose call perhaps runs no hooks; otherwise nothing."""
    kind = class_with_own_call(model)
    if kind is None:
        return ""
    return (
        f" {_name(kind)} replaces nn.Module.__call__, perhaps by one that runs no hooks: "
        f"{_WAY_OUT}."
    )


def fault(model: nn.Module) -> str:
    """Return why a model cannot be mixed whose call runs no hooks, and what to do."""
    kind = class_with_own_call(model) or type(model)
    return (
        f"{_name(kind)} replaces nn.Module.__call__ by one that runs no hooks, so its forward pass "
        f"cannot be seen or mixed: {_WAY_OUT}"
    )


def fault_of_layer(name: str, module: nn.Module) -> str:
    """Return why a layer cannot be mixed if its call runs no hooks; empty if that is not seen."""
    kind = class_with_own_call(module)
    if kind is None or not surely_runs_no_hooks(module):
        return ""
    return (
        f"layer {name!r} cannot be mixed: {_name(kind)} replaces nn.Module.__call__ by one that "
        f"runs no hooks. Name a module inside it, or put it into an nn.Module whose forward calls "
        f"it, and name that."
    )


def surely_runs_no_hooks(model: nn.Module) -> bool:
    """Return whether a model's call is seen to run its forward directly.

    Other calls may do so too, which only a forward pass shows.
    """
    kind = class_with_own_call(model)
    call = vars(kind)["__call__"] if kind is not None else None
    if not isinstance(call, types.FunctionType):
        return False
    code = call.__code__
    if _CALLS & {*code.co_names} or code.co_freevars:
        return False
    for step in dis.get_instructions(code):
        if step.argval == "forward":
            return True
        if "JUMP" in step.opname and "IF" in step.opname:
            return False  # perhaps another way is taken, which runs them
    return False


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"
