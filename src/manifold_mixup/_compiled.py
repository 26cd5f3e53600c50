"""What torch.compile asks for beyond hooks that never change."""

import sys
import warnings

from torch import nn

from manifold_mixup._layers import named_layers, unwrap


def is_compiled(module: nn.Module) -> bool:
    """Say whether a module runs compiled, wrapped by torch.compile or in place."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def runs_compiled(model: nn.Module, layer: str) -> bool:
    """Say whether a layer, a module around it, or the running call of the model is compiled."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    around = [
        module for name, module in named_layers(model).items() if f"{layer}.".startswith(f"{name}.")
    ]
    inside = getattr(dynamo, "_in_optimized_module", False)
    return inside or any(map(is_compiled, (*_shells(model), *around)))


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


def warn_of_limit(model: nn.Module, layers: int) -> None:
    """Warn when the compiler would give up before it has a graph for every layer."""
    if not any(map(is_compiled, model.modules())):
        return
    import torch._dynamo

    config = torch._dynamo.config
    limit = getattr(config, "recompile_limit", None) or config.cache_size_limit
    graphs = 2 * layers + 1  # with and without a dynamic batch size, and one for evaluation
    if graphs > limit:
        warnings.warn(
            f"{layers} eligible layers make up to {graphs} compiled graphs, but the compiler stops "
            f"at {limit} and runs the rest eagerly. Set torch._dynamo.config.recompile_limit = "
            f"{graphs} or more.",
            stacklevel=4,
        )
