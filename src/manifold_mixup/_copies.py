"""Copies of a model to try things on, so that nothing of the model itself changes."""

import copy
import logging
import random
import sys
import types
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from manifold_mixup._layers import unwrap

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class NotTraceable(RuntimeError):
    """A model that cannot be looked at from outside; the message says why."""


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a model, without what wraps it, to train in eager mode.

    Raises:
        NotTraceable: the model cannot be copied.
    """
    model = unwrap(model)
    if any(type(parameter).__name__ == "DTensor" for parameter in model.parameters()):
        raise NotTraceable("its parameters are sharded, and sharded models cannot be copied")
    try:
        clone = copy.deepcopy(model, _detached_state(model))
    except Exception as error:
        reason = f"it cannot be copied ({type(error).__name__}: {error})"
        raise NotTraceable(reason) from error
    _drop_shared_hooks(model, clone)
    _make_eager(clone)
    # A model in train mode keeps what its owner froze (BatchNorm in eval mode, say).
    return clone if model.training else clone.train()


def fake_copy(model: nn.Module, mode: Any) -> nn.Module:
    """Copy a model as `copy_model` does, but onto fake tensors: shapes and dtypes, no memory.

    Args:
        model: the model.
        mode: the `FakeTensorMode` that the copy is to live in.

    Raises:
        NotTraceable: the model cannot be copied.
    """
    from torch._subclasses.fake_tensor import FakeCopyMode

    with FakeCopyMode(mode):
        return copy_model(model)


@contextmanager
def fakes_fail_silently() -> Iterator[None]:
    """Keep torch from logging what does not run on fake tensors: there is another way to try."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    del record
    return False


def _detached_state(model: nn.Module) -> dict[int, Any]:
    """Copy ahead what deepcopy refuses: attributes that are results, as old weight norms keep."""
    values = [value for module in model.modules() for value in vars(module).values()]
    results = [value for value in values if isinstance(value, Tensor) and not value.is_leaf]
    return {id(value): value.detach().clone() for value in results}


def _drop_shared_hooks(model: nn.Module, clone: nn.Module) -> None:
    """Take off the copy every hook that is still the model's own: it would act on its owner's data.

    Functions are shared by copies. Hooks that are objects, as weight norms are, were copied.
    """
    for module, twin in zip(model.modules(), clone.modules(), strict=True):
        for kind in _HOOKS:
            own, copied = getattr(module, kind), getattr(twin, kind)
            for key in [key for key, hook in copied.items() if hook is own.get(key)]:
                del copied[key]


def _make_eager(model: nn.Module) -> None:
    for module in list(model.modules()):
        module._compiled_call_impl = None
        for name, child in module._modules.items():
            module._modules[name] = None if child is None else unwrap(child)
        if isinstance(module, nn.SyncBatchNorm):
            # Alone in its process, and talking to nobody.
            module.forward = types.MethodType(nn.BatchNorm2d.forward, module)  # type: ignore[method-assign]


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """Try something without leaving a trace.

    Every global generator (torch's on the CPU and on the model's devices, Python's, NumPy's) is put
    back, nothing is compiled, gradients are on, warnings are left to the real forward pass, and a
    checkpoint around it does not count what is saved for backward here.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(_cuda_devices(model)))
        stack.callback(random.setstate, random.getstate())
        if (numpy := sys.modules.get("numpy")) is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        if "torch._dynamo" in sys.modules:  # else there is nothing compiled, and it is slow to load
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        # Detached, for an output that its own node saves as it is would never be freed.
        pack = torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda tensor: tensor)
        stack.enter_context(pack)
        yield


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return sorted(device.index or 0 for device in devices)
