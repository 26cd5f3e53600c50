"""The padding mask of a model: who reads it after which layer, and what it says of a batch."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from manifold_mixup import _masks
from manifold_mixup._attach import compiled as _compiled
from manifold_mixup._attach.hooks import ActivePlan, LayerHook, MaskHook
from manifold_mixup._attach.passes import Passes
from manifold_mixup._inputs import accepts
from manifold_mixup._layers import is_input, named_layers, unwrap
from manifold_mixup._module_hooks import hook_before
from manifold_mixup._structure.rows import InputRow, LayerRow


class Padding:
    """A mask that is mixed along, or none.

    Args:
        owner: the `ManifoldMixup` whose hooks these are.
        name: of the mask among the model's inputs; None if there is none to mind.
        active: for the hooks.
        passes: likewise.
        layers: the hooks on the layers that can be mixed.
    """

    def __init__(
        self,
        owner: object,
        name: str | None,
        *,
        active: ActivePlan,
        passes: Passes,
        layers: Mapping[str, LayerHook],
    ) -> None:
        self.owner = owner
        self.name = name
        self.active, self.passes, self.layers = active, passes, layers
        self.hooks: dict[str, MaskHook] = {}
        self.known = name is None  # whether it was looked who reads it
        self.inputs: set[str] = set()  # "input" and the like, if the mask is read after them

    def unknown(self, inputs: Iterable[tuple[str, Tensor]]) -> bool:
        """Return whether this batch has a mask, and nobody has looked yet who reads it."""
        return not self.known and any(name == self.name for name, _ in inputs)

    def valid(self, inputs: Iterable[tuple[str, Tensor]]) -> Tensor | None:
        """Return what is no padding in a batch, ``(batch, time)``; None without a mask."""
        mask = dict(inputs).get(self.name) if self.name is not None else None
        return (
            None if mask is None or self.name is None else _masks.valid_positions(mask, self.name)
        )

    def note(self, layer: str, row: LayerRow | InputRow) -> None:
        """Take over who reads the mask after a layer."""
        readers = row.readers if row.mask == self.name else ()
        if is_input(layer) and readers:
            self.inputs.add(layer)
        if layer in self.layers:
            self.layers[layer].masked = bool(readers)
        for reader in readers:
            hook = self.hooks.get(reader.layer)
            if hook is None:
                hook = MaskHook(self.owner, self.active, self.passes, self.layers)
                self.hooks[reader.layer] = hook
            if reader not in hook.reads.setdefault(layer, []):
                hook.reads[layer].append(reader)

    def register(self, model: nn.Module) -> list[Any]:
        """Put the hooks that are new on the model's modules."""
        modules = named_layers(model)
        handles: list[Any] = []
        for name, hook in self.hooks.items():
            if hook not in modules[name]._forward_pre_hooks.values():
                handles.append(_compiled.Mark(modules[name]))
                handles.append(hook_before(modules[name], hook))
        return handles


def require_argument(model: nn.Module, mask: object) -> None:
    """Raise unless ``mask`` can be the name of an argument of the model."""
    if mask is None:
        return
    if not isinstance(mask, str):
        raise TypeError(
            f"mask is the name of the model's argument, such as 'attention_mask', but is a "
            f"{type(mask).__name__}."
        )
    kind, name = type(unwrap(model)).__name__, mask.split(".")[0]
    if not accepts(unwrap(model), name):
        raise ValueError(f"mask={mask!r}: the forward of {kind} has no argument {name!r}.")
