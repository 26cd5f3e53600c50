"""Check that a layer's name still refers to the hooked module; LoRA, for one, wraps modules."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from manifold_mixup._layers import is_input, module_name, named_layers, unwrap


class Placement:
    """The positions of the hooked modules in a model, to detect when one is replaced.

    Args:
        model: the model.
        layers: the names of the eligible layers.
    """

    def __init__(self, model: nn.Module, layers: Iterable[str]) -> None:
        self.model = model
        modules = named_layers(model)
        named = (name for name in layers if not is_input(name))
        self.modules = {name: modules[module_name(name)] for name in named}
        self.readers: dict[str, set[str]] = {}
        self._links: dict[str, list[tuple[dict[str, Any], str, Any]]] = {}

    def add_readers(self, layer: str, readers: Iterable[str]) -> None:
        """Note the modules whose hook mixes the mask when ``layer`` is mixed."""
        modules = named_layers(self.model)
        self.readers.setdefault(layer, set()).update(readers)
        self.modules.update({name: modules[name] for name in self.readers[layer]})
        self._links.pop(layer, None)

    def require(self, layer: str) -> None:
        """Raise RuntimeError if ``layer``, or a reader of its mask, was wrapped or replaced."""
        links = self._links.get(layer)
        if links is not None:
            for modules, part, child in links:
                if modules.get(part) is not child:
                    break
            else:  # nothing was replaced since
                return
        for reason in self.replaced(self._names(layer)).values():
            raise RuntimeError(f"{reason}.")
        self._links[layer] = self._links_to(layer)

    def replaced(self, names: Iterable[str]) -> dict[str, str]:
        """Map those of ``names`` that no longer refer to the hooked module to the error."""
        modules = named_layers(self.model)
        reasons = {name: self._why_replaced(name, modules) for name in names}
        return {name: reason for name, reason in reasons.items() if reason}

    def _why_replaced(self, name: str, modules: dict[str, nn.Module]) -> str:
        hooked = self.modules.get(name)
        if hooked is None:
            return ""
        found = modules.get(module_name(name))
        if found is not None and unwrap(found) is unwrap(hooked):
            return ""
        return (
            f"layer {name!r} is no longer the module that ManifoldMixup was attached to: that was "
            f"a {_kind(hooked)}, and now it is {_kind(found) if found else 'gone'}. A module that "
            f"replaces or wraps it, such as LoRA, would stay unmixed. Attach again with "
            f"replace=True"
        )

    def _names(self, layer: str) -> list[str]:
        return [name for name in (layer, *self.readers.get(layer, ())) if name in self.modules]

    def _links_to(self, layer: str) -> list[tuple[dict[str, Any], str, Any]]:
        """List the links of the module tree that lead to these modules, each once."""
        links: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        for name in self._names(layer):
            module = unwrap(self.model)
            for part in module_name(name).split("."):
                modules = unwrap(module)._modules
                module = modules[part]  # type: ignore[assignment]
                links[id(modules), part] = (modules, part, module)
        return list(links.values())


def _kind(module: nn.Module) -> str:
    kind = type(unwrap(module))
    return f"{kind.__module__}.{kind.__qualname__}"
