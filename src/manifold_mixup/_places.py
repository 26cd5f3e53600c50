"""Hooks on layers that stand where a state is mixed, whatever other hooks a layer has."""

from collections.abc import Callable
from typing import Any

from torch import nn


class Place:
    """Keeps the place among a layer's hooks in which a state is mixed, while ours are away."""

    def __call__(self, *_: Any) -> None:
        """Do nothing."""


def hook_after(module: nn.Module, hook: Callable[..., Any], **options: Any) -> Any:
    """Register a forward hook, on scripted modules as well; return its handle."""
    return nn.Module.register_forward_hook(module, hook, **options)


def hook_before(module: nn.Module, hook: Callable[..., Any]) -> Any:
    """Register a forward pre-hook that is given keyword arguments; return its handle."""
    return nn.Module.register_forward_pre_hook(module, hook, with_kwargs=True)


def to_front(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Let a forward hook that stands on a layer run before all others there."""
    for key, one in list(module._forward_hooks.items()):
        if one is hook:
            module._forward_hooks.move_to_end(key, last=False)  # type: ignore[attr-defined]


def into_place(module: nn.Module) -> None:
    """Move the last forward hook of a layer to where ours stood, if they did.

    Hooks of others that came before them see the state as it is before the mix.
    """
    keys = list(module._forward_hooks)
    places = [key for key in keys if isinstance(module._forward_hooks[key], Place)]
    if places:
        for key in keys[keys.index(places[0]) + 1 : -1]:
            module._forward_hooks.move_to_end(key)  # type: ignore[attr-defined]
