"""Extra support for torch.compile: marks on layers, compiled blocks, warnings."""

import sys
import types
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._blend import Align, Blend, at_layer, ways_of
from manifold_mixup._layers import named_layers, unwrap
from manifold_mixup._plan import MixPlan
from manifold_mixup._warn import warn


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module is compiled, either wrapped by torch.compile or in place."""
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

    When a checkpoint recomputes such a module, hooks inside it cannot find out which backward node
    runs.
    """
    if any(is_compiled(shell) for shell in _shells(model)):
        return []
    return [module for module in unwrap(model).modules() if is_compiled(module)]


def _shells(model: nn.Module) -> list[nn.Module]:
    """List the model and the modules it wraps, down to the user's own."""
    core = unwrap(model)
    return [module for module in model.modules() if unwrap(module) is core]


def skip_compiling(*functions: Any) -> None:
    """Keep the compiler from compiling functions on their own; it may inline them in others.

    If the code around them cannot be compiled, the compiler would compile them one by one, with a
    graph for every pair of layers. Hooks could then not recognise a recomputation in a backward
    pass inside the compiled function.
    """
    from torch._dynamo.eval_frame import skip_code

    for function in functions:
        skip_code(function.__code__)


class Mark:
    """Prevents compiled code without a layer's hooks from running that layer; `remove` undoes it.

    The compiler shares code between models of the same class, and its guards do not check for new
    hooks. They do check whether a module without hooks has its own ``forward`` attribute. So the
    layer gets its class's ``forward`` as an instance attribute; `renew` follows a change of it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.forward: Any = None
        # A scripted module has no Python code, and every GraphModule has its own class. Of
        # compiled regions, others would use the parameters of one with a forward of its own
        # (findings/torch_compile_region_forward.sh).
        unlike = isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule)
        if not unlike and not _is_region(module):
            self.forward = types.MethodType(type(module).forward, module)
            vars(module).setdefault("forward", self.forward)

    def remove(self) -> None:
        """Remove the mark if it is still there."""
        if self.forward is not None and vars(self.module).get("forward") is self.forward:
            del vars(self.module)["forward"]

    def renew(self) -> None:
        """Take the ``forward`` of the module's class as it is now."""
        forward = type(self.module).forward
        # A descriptor, such as a partialmethod, may make another function each time.
        if forward is type(self.module).forward:
            given, own = vars(self.module).get("forward"), self.forward
            self.forward = types.MethodType(forward, self.module)
            if given is own:
                vars(self.module)["forward"] = self.forward


# The attribute of a tensor of which the user told the compiler that its sizes vary.
_DYNAMIC = "_dynamo_dynamic_indices"


def follow_sizes(inputs: Iterable[tuple[str, Tensor]], plan: MixPlan | None) -> None:
    """Tell the compiler that the sizes of a plan vary if the user said so of an input."""
    for _, tensor in inputs:
        if hasattr(tensor, _DYNAMIC) and plan is not None:
            _mark(plan.lam, {0})
            _mark(plan.perm, {0})


def mark_alike(mixed: Tensor, tensor: Tensor) -> None:
    """Tell the compiler of a mixed input what the user told it of the input."""
    if hasattr(tensor, _DYNAMIC):
        _mark(mixed, getattr(tensor, _DYNAMIC))


def _mark(tensor: Tensor, dims: Iterable[int]) -> None:
    from torch._dynamo import maybe_mark_dynamic

    maybe_mark_dynamic(tensor, [dim for dim in dims if dim < tensor.ndim])


def _is_region(module: nn.Module) -> bool:
    """Return whether a module is a region that the compiler traces once for all of its class."""
    return hasattr(type(module).forward, "__marked_compile_region_fn__")


def warn_of_limit(
    model: nn.Module, layers: Sequence[str], blend: Blend, *, sometimes: bool
) -> None:
    """Warn if the compiler's limit is too low to have a graph for every layer and way of mixing.

    Args:
        model: the model that is attached to.
        layers: the eligible layers.
        blend: the ways of mixing.
        sometimes: whether some training batches are not mixed, which needs another graph.
    """
    if not any(map(is_compiled, model.modules())):
        return
    import torch._dynamo

    config = torch._dynamo.config
    limit = getattr(config, "recompile_limit", None) or config.cache_size_limit
    ways = [way for layer in layers for way in ways_of(at_layer(blend, layer))]
    # Which of the two states Align moves is fixed in a graph.
    twice = sum(isinstance(way, Align) for way in ways)
    mixes = len(ways) + twice
    # Static and dynamic batch size for each, and one graph for evaluation.
    graphs = 2 * (mixes + sometimes) + 1
    by_ways = f" with {mixes} ways of mixing in all" if mixes > len(layers) else ""
    by_ways += " (Align has two)" if twice else ""
    and_none = " and batches that are not mixed" if sometimes else ""
    if graphs > limit:
        warn(
            f"{len(layers)} eligible layers{by_ways}{and_none} need up to {graphs} compiled "
            f"graphs, but the compiler stops at {limit} and runs the rest eagerly, or raises if "
            f"fullgraph=True. Set torch._dynamo.config.recompile_limit = {graphs} or more.",
        )


def warn_of_forward(model: nn.Module) -> None:
    """Warn if the model runs eagerly because the compiler cannot resume in its forward.

    After the draw, which runs eagerly, the compiler resumes in the code of the model's ``forward``.
    It does not compile PyTorch's own code there, except for a plain `nn.Sequential` since 2.12.
    """
    kind = type(model)
    taken_up = kind is nn.Sequential and torch.__version__ >= "2.12"
    file = getattr(kind.forward, "__module__", None) or ""  # that of a GraphModule has none
    borrowed = file.startswith("torch.") and not taken_up
    compiled = model._compiled_call_impl is not None or _inside()
    if borrowed and compiled and "_orig_mod" not in model._modules:
        warn(
            f"{kind.__name__} has no forward of its own, and after the draw the compiler does not "
            f"resume in PyTorch's forward: the model runs eagerly. Define a forward, or compile "
            f"first and attach to the compiled model: ManifoldMixup(torch.compile(model), ...).",
        )
