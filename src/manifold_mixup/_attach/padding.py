"""The padding mask of a model: which modules read it, and the valid positions of a batch."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from manifold_mixup import _masks
from manifold_mixup._attach.hooks import ActivePlan, LayerHook, MaskHook, put_on
from manifold_mixup._attach.passes import Passes
from manifold_mixup._inputs import accepts
from manifold_mixup._layers import is_input, unwrap
from manifold_mixup._structure.row import InputRow, LayerRow


class Padding:
    """The padding mask that is mixed with the states, if there is one.

    Args:
        owner: the `ManifoldMixup` that the hooks belong to.
        name: name of the mask among the model's inputs; None without a mask.
        active: the active plan, for the hooks.
        passes: the forward passes, for the hooks.
        layers: the hooks on the eligible layers.
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
        self.known = name is None  # whether its readers are known
        self.inputs: set[str] = set()  # input layers after which the mask is read

    def unknown(self, inputs: Iterable[tuple[str, Tensor]]) -> bool:
        """Return whether this batch has a mask whose readers are not known yet."""
        return not self.known and any(name == self.name for name, _ in inputs)

    def valid(self, inputs: Iterable[tuple[str, Tensor]]) -> Tensor | None:
        """Return the valid positions of a batch, ``(batch, time)``; None without a mask."""
        mask = dict(inputs).get(self.name) if self.name is not None else None
        return (
            None if mask is None or self.name is None else _masks.valid_positions(mask, self.name)
        )

    def record_row(self, layer: str, row: LayerRow | InputRow) -> None:
        """Store the modules that read the mask after a layer."""
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
        """Register new hooks on the model's modules, and return their handles."""
        return put_on(model, self.hooks, before=True)


def require_argument(model: nn.Module, mask: object) -> None:
    """Raise unless ``mask`` is None or the name of an argument of the model."""
    if mask is None:
        return
    if not isinstance(mask, str):
        raise TypeError(
            f"mask must be the name of a model argument, such as 'attention_mask', but is a "
            f"{type(mask).__name__}."
        )
    kind, name = type(unwrap(model)).__name__, mask.split(".")[0]
    if not accepts(unwrap(model), name):
        raise ValueError(f"mask={mask!r}: the forward of {kind} has no argument {name!r}.")
