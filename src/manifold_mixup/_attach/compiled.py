"""What torch.compile asks for beyond hooks that never change."""

import sys
import types
from typing import Any

import torch
from torch import nn

from manifold_mixup._layers import named_layers, unwrap
from manifold_mixup._warn import warn


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module runs compiled, wrapped by torch.compile or in place."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def runs_compiled(model: nn.Module, layer: str) -> bool:
    """Return whether a layer, a module around it, or the running call of the model is compiled."""
    around = [
        module for name, module in named_layers(model).items() if f"{layer}.".startswith(f"{name}.")
    ]
    return _inside() or any(map(is_compiled, (*_shells(model), *around)))


def _inside() -> bool:
    """Return whether a module that torch.compile wrapped is running."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return bool(getattr(dynamo, "_in_optimized_module", False))


def blocks(model: nn.Module) -> list[nn.Module]:
    """List the compiled modules inside a model that itself runs eagerly.

    When a checkpoint recomputes one of these, their hooks cannot ask which backward node runs.
    """
    if any(is_compiled(shell) for shell in _shells(model)):
        return []
    return [module for module in unwrap(model).modules() if is_compiled(module)]


def _shells(model: nn.Module) -> list[nn.Module]:
    """List the model and what it wraps, down to the user's own."""
    core = unwrap(model)
    return [module for module in model.modules() if unwrap(module) is core]


def skip_compiling(*functions: Any) -> None:
    """Keep the compiler from compiling functions by themselves; it may inside of others.

    Where the code around them could not be compiled it would take them one by one, with a graph for
    every pair of layers, and hooks could not tell a recomputation in a backward pass that runs
    inside the compiled function.
    """
    from torch._dynamo.eval_frame import skip_code

    for function in functions:
        skip_code(function.__code__)


class Mark:
    """Keeps compiled code without a layer's hooks from running that layer; `remove` takes it back.

    The compiler shares code between the models of a class, and does not look for hooks before it
    runs it. It does look whether a module that had no hooks has a ``forward`` of its own. So the
    layer gets the one of its class as its own.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward: Any = None
        # A scripted module has no Python code, and every GraphModule a class of its own.
        if not isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
            self.forward = types.MethodType(type(module).forward, module)
            vars(module).setdefault("forward", self.forward)

    def remove(self) -> None:
        """Take the mark off, if it is still there."""
        if self.forward is not None and vars(self.module).get("forward") is self.forward:
            del vars(self.module)["forward"]


def warn_of_limit(model: nn.Module, layers: int, *, sometimes: bool) -> None:
    """Warn when the compiler would give up before it has a graph for every layer.

    Args:
        model: the model, as it is attached to.
        layers: number of eligible layers.
        sometimes: whether some training batches are not mixed, which takes a graph of its own.
    """
    if not any(map(is_compiled, model.modules())):
        return
    import torch._dynamo

    config = torch._dynamo.config
    limit = getattr(config, "recompile_limit", None) or config.cache_size_limit
    # With and without a dynamic batch size, and one for evaluation.
    graphs = 2 * (layers + sometimes) + 1
    and_none = " and batches that are not mixed" if sometimes else ""
    if graphs > limit:
        warn(
            f"{layers} eligible layers{and_none} make up to {graphs} compiled graphs, but the "
            f"compiler stops at {limit}: it runs the rest eagerly, or raises if fullgraph=True. "
            f"Set torch._dynamo.config.recompile_limit = {graphs} or more.",
        )


def warn_of_forward(model: nn.Module) -> None:
    """Warn when the compiler leaves a model that is running eager, for want of a forward.

    After the draw the compiler goes on with the code of the model's ``forward``. It does not take
    up code of PyTorch's own there, with the exception of a plain `nn.Sequential` since 2.12.
    """
    kind = type(model)
    taken_up = kind is nn.Sequential and torch.__version__ >= "2.12"
    file = getattr(kind.forward, "__module__", None) or ""  # that of a GraphModule has none
    borrowed = file.startswith("torch.") and not taken_up
    compiled = model._compiled_call_impl is not None or _inside()
    if borrowed and compiled and "_orig_mod" not in model._modules:
        warn(
            f"{kind.__name__} has no forward of its own, and the compiler does not go on with "
            f"PyTorch's after the draw: the model runs eagerly. Give it a forward, or compile it "
            f"first and attach to what torch.compile returns: ManifoldMixup(torch.compile(model), "
            f"...).",
        )
