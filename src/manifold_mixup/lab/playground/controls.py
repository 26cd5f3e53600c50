"""The controls of the settings on the page."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from nicegui import ui

from manifold_mixup.lab.playground.choice import BOUNDS, LAYERS, NONE, Choice, names
from manifold_mixup.lab.playground.offered import about, left_out
from manifold_mixup.lab.playground.parts import Slider, Text

_LABELS = {
    "alpha": "α, λ ~ Beta(α, α)",
    "noise": "noise of the points",
    "width": "units of a hidden layer",
    "seed": "seed",
}


class Controls:
    """A menu, sliders and checkboxes, and a link to the current settings.

    Args:
        choice: the first settings.
        restart: called with every new choice of settings.
    """

    def __init__(self, choice: Choice, restart: Callable[[Choice], None]) -> None:
        self._choice = choice
        self._restart = restart
        self._method()
        self._alpha = self._slider("alpha")
        self._boxes = self._layers()
        for name in ("noise", "width", "seed"):
            self._slider(name)
        with ui.row().classes("gap-3 items-center"):
            ui.button("Copy link", on_click=self._copy, color=None).props("no-caps outline")
            self._link = ui.link("these settings", self._address())
        self._enable()

    def _method(self) -> None:
        ui.select(
            names(),
            value=self._choice.method,
            label=f"method to compare with {NONE}",
            on_change=lambda event: self._switch(event.value),
        ).classes("w-full")
        # Screen readers read the line when another method is chosen.
        self._about = Text("p", text=about(self._choice.method)).props("aria-live=polite")
        with Text("details"):
            Text("summary", text="ways of mixing that are not offered")
            with Text("ul"):
                for why, ways in left_out().items():
                    Text("li", text=f"{', '.join(ways)}: {why}.")

    def _slider(self, name: str) -> Slider:
        value = getattr(self._choice, name)
        kind, label = type(value), _LABELS[name]
        with Text("label").classes("w-full"):
            shown = Text("span", text=f"{label}: {value:g}")
            return Slider(
                *BOUNDS[name],
                value=value,
                on_drag=lambda new: shown.set_text(f"{label}: {new:g}"),
                # The networks restart when the slider is released, not while it is dragged.
                on_release=lambda new: self._change(**{name: kind(new)}),
            )

    def _layers(self) -> dict[str, ui.checkbox]:
        with ui.element("fieldset").classes("w-full"):
            Text("legend", text="eligible layers; each step draws one")
            with ui.row().classes("gap-x-3 gap-y-1"):
                return {
                    layer: ui.checkbox(
                        layer, value=layer in self._choice.layers, on_change=self._choose_layers
                    ).props("dense")
                    for layer in LAYERS
                }

    def _choose_layers(self) -> None:
        chosen = tuple(layer for layer, box in self._boxes.items() if box.value)
        if chosen:
            self._change(layers=chosen)
            return
        ui.notify("At least one layer must be chosen.")
        for layer in self._choice.layers:
            self._boxes[layer].set_value(True)

    def _switch(self, method: str) -> None:
        """Take another method; its α is then its own."""
        choice = self._choice.switch(method)
        self._about.set_text(about(method))
        self._alpha.set_value(choice.alpha)
        self._take(choice)

    def _change(self, **values: Any) -> None:
        self._take(replace(self._choice, **values))

    def _take(self, choice: Choice) -> None:
        if choice == self._choice:
            return
        self._choice = choice
        self._enable()
        self._restart(choice)
        self._link.props["href"] = self._address()
        ui.navigate.history.replace(self._address())

    def _enable(self) -> None:
        """Enable only the controls that affect the method."""
        self._alpha.set_enabled(self._choice.mixes)
        for box in self._boxes.values():
            box.set_enabled(self._choice.mixes_hidden)

    def _address(self) -> str:
        return f"/?{self._choice.query()}"

    async def _copy(self) -> None:
        origin = await ui.run_javascript("window.location.origin")
        ui.clipboard.write(f"{origin}{self._address()}")
        ui.notify("Link copied.")
