"""Hooks on modules: what ours have in common, and where they stand among the hooks of others."""

from collections.abc import Callable
from typing import Any

from torch import nn

COMPILE_FIRST = (
    "manifold-mixup draws its plan outside of compiled code. With fullgraph=True, compile first "
    "and attach to the compiled model: ManifoldMixup(torch.compile(model, fullgraph=True), ...). "
    "Leave the criterion out of the compiled function. Before torch.export, remove() first."
)


class _NotScriptable(RuntimeError, AttributeError):
    pass


class Hook:
    """A hook on the model it was registered on; on copies of that model, nothing.

    Attributes:
        looking: whether a dry run is to keep its place among the hooks of others.
    """

    looking = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _get_inert, ()

    @property
    def __name__(self) -> str:
        # torch.jit.script asks hooks for their name; who merely looks finds none.
        raise _NotScriptable(
            "a model with Manifold Mixup attached cannot be scripted: remove() first."
        )


def inert(*_: Any, **__: Any) -> None:
    """Stand for a hook on a copied model."""


def _get_inert() -> Callable[..., None]:
    return inert


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
