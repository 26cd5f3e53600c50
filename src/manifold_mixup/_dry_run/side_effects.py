"""Isolate a dry run: it changes no global state, and no hook or mode of the user sees it."""

import contextvars
import functools
import gc
import logging
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.nn.modules import module as hooked
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

from manifold_mixup._dry_run.imports import imports_outside

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_own_context(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a function in a copy of the context, because context variables cannot be unset."""

    @functools.wraps(function)
    def inside(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        return contextvars.copy_context().run(function, *args, **kwargs)

    return inside


@contextmanager
def fakes_fail_silently() -> Iterator[None]:
    """Keep PyTorch from logging failures on fake tensors, because copies are tried next."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


@contextmanager
def without_collections() -> Iterator[None]:
    """Run the body without cyclic garbage collections, which take a fifth of its time.

    A look creates many small objects that stay, and almost no garbage.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@contextmanager
def old_objects_kept() -> Iterator[None]:
    """Let cyclic garbage collections in the body look at new objects only.

    With large libraries imported, a collection of all objects takes as long as a pass or two.
    """
    frozen = gc.get_freeze_count() > 0  # by the user, and then they stay so
    if not frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


@contextmanager
def own_conversions() -> Iterator[None]:
    """Let the body convert all parameters that autocast computes in another type.

    Until its outermost context ends, autocast keeps the parameters that it converted, so a second
    pass would run fewer operators than the first, and fake tensors would outlive the body.
    Afterwards, the next pass converts its own again.
    """
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


def _nothing(record: logging.LogRecord) -> bool:
    del record
    return False


@contextmanager
def without_side_effects(model: nn.Module) -> Iterator[None]:
    """Run the body without leaving a trace.

    Every global generator (PyTorch's on the CPU and on the model's devices, Python's, NumPy's) is
    restored. Nothing is compiled, gradients are enabled, and warnings are suppressed, because the
    real forward pass gives them. The user's modes (a FLOP counter, for example), global module
    hooks, transforms of torch.func and checkpoints around the call are inactive. Modules that the
    body imports stay imported, and see no mode of ours.
    """
    with ExitStack() as stack:
        stack.enter_context(_outside_of_transforms())
        stack.enter_context(torch.random.fork_rng(_cuda_devices(model)))
        stack.callback(random.setstate, random.getstate())
        if (numpy := sys.modules.get("numpy")) is not None:
            stack.callback(numpy.random.set_state, numpy.random.get_state())
        if not _COMPILERS.isdisjoint(sys.modules):  # slow to import
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(fakes_fail_silently())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(_disable_current_modes())
        stack.enter_context(_without_function_modes())
        stack.enter_context(imports_outside(_disable_current_modes, _without_function_modes))
        for shared in _SHARED:
            stack.enter_context(_emptied(getattr(hooked, shared)))
        if (parametrize := sys.modules.get("torch.nn.utils.parametrize")) is not None:
            stack.enter_context(_emptied(parametrize._cache))
        if torch._C._autograd._top_saved_tensors_default_hooks(False):
            # Detach, because a node that saves its own output would never be freed.
            pack = torch.autograd.graph.saved_tensors_hooks(torch.Tensor.detach, lambda kept: kept)
            stack.enter_context(pack)
        yield


# Without one of these, nothing is compiled; flex_attention compiles when it is called.
_COMPILERS = {"torch._dynamo", "torch.nn.attention.flex_attention"}
# The global hooks, which run on every module.
_SHARED = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_forward_hooks_always_called",
    "_global_forward_hooks_with_kwargs",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
    "_global_buffer_registration_hooks",
    "_global_module_registration_hooks",
    "_global_parameter_registration_hooks",
)


@contextmanager
def _emptied(shared: dict[Any, Any]) -> Iterator[None]:
    held = dict(shared)
    shared.clear()
    try:
        yield
    finally:
        shared.clear()
        shared.update(held)


@contextmanager
def _without_function_modes() -> Iterator[None]:
    """Leave all active function modes except those that set the default device."""
    from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode

    active = [_pop_mode() for _ in _get_current_function_mode_stack()]
    devices = [mode for mode in active if isinstance(mode, DeviceContext)]
    for mode in devices:
        _push_mode(mode)
    try:
        yield
    finally:
        for _ in devices:
            _pop_mode()
        for mode in reversed(active):
            _push_mode(mode)


@contextmanager
def _outside_of_transforms() -> Iterator[None]:
    """Leave all running transforms of torch.func."""
    if torch._C._functorch.peek_interpreter_stack() is None:
        yield
        return
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    with temporarily_clear_interpreter_stack():
        yield


def _cuda_devices(model: nn.Module) -> list[int]:
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    return sorted(device.index or 0 for device in devices)
