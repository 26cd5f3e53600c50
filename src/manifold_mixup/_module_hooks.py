"""The base class of our module hooks, and their order among the hooks of other libraries."""

from collections.abc import Callable
from typing import Any

from torch import nn

# Without it, hooks of all modules cannot be told, and are taken to be there.
_has_hooks_of_all = getattr(nn.modules.module, "_has_any_global_hook", lambda: True)

COMPILE_FIRST = (
    "manifold-mixup draws its plan outside compiled code. With fullgraph=True, compile first and "
    "attach to the compiled model: ManifoldMixup(torch.compile(model, fullgraph=True), ...). Keep "
    "the criterion out of the compiled function. To use torch.export, call remove() first."
)


WRAP_BLOCKS = (
    "manifold-mixup has hooks on each compiled block of a model that runs eagerly, which find the "
    "plan of a recomputation. A block that is compiled in place runs them in its graph. With "
    "fullgraph=True, wrap it instead, before attaching: model.block = torch.compile(model.block, "
    "fullgraph=True)."
)


class _NotScriptable(RuntimeError, AttributeError):
    pass


class Hook:
    """A hook that acts only on the model it was registered on; on copies it does nothing.

    Attributes:
        in_dry_run: whether a dry run marks this hook's position among the hooks of others.
    """

    in_dry_run = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _get_inert, ()

    @property
    def __name__(self) -> str:
        # torch.jit.script reads the name of hooks. For hasattr and getattr, there is none.
        raise _NotScriptable(
            "a model with Manifold Mixup attached cannot be scripted. Call remove() first."
        )


def inert(*_: Any, **__: Any) -> None:
    """Replace a hook on a copied model."""


def _get_inert() -> Callable[..., None]:
    return inert


class HookPlaceholder:
    """Marks the position of our hook among a layer's hooks while it is removed."""

    def __call__(self, *_: Any) -> None:
        """Do nothing."""


def hook_after(module: nn.Module, hook: Callable[..., Any], **options: Any) -> Any:
    """Register a forward hook, even on a scripted module, and return its handle."""
    return nn.Module.register_forward_hook(module, hook, **options)


def hook_before(module: nn.Module, hook: Callable[..., Any]) -> Any:
    """Register a forward pre-hook that receives keyword arguments, and return its handle."""
    return nn.Module.register_forward_pre_hook(module, hook, with_kwargs=True)


def has_no_hooks(module: nn.Module) -> bool:
    """Return whether a module has no hooks, and the forward of its class."""
    own = vars(module)
    hooks = (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or _has_hooks_of_all()
    )
    return not hooks and "forward" not in own


def to_front(module: nn.Module, hook: Callable[..., Any]) -> None:
    """Make a layer's forward hook run before its others."""
    for key, registered in list(module._forward_hooks.items()):
        if registered is hook:
            module._forward_hooks.move_to_end(key, last=False)  # type: ignore[attr-defined]


def into_place(module: nn.Module) -> None:
    """Move a layer's last forward hook to the position of our removed hook, if there was one.

    Hooks of others before that position see the state before it is mixed.
    """
    keys = list(module._forward_hooks)
    placeholders = [key for key in keys if isinstance(module._forward_hooks[key], HookPlaceholder)]
    if placeholders:
        for key in keys[keys.index(placeholders[0]) + 1 : -1]:
            module._forward_hooks.move_to_end(key)  # type: ignore[attr-defined]
