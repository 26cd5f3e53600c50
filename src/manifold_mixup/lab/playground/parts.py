"""Plain HTML elements, which work with keyboards and screen readers."""

from collections.abc import Callable
from typing import Any

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement


class Text(TextElement):
    """A tag with text in it; the text is escaped."""

    def __init__(self, tag: str, *, text: str = "") -> None:
        super().__init__(tag=tag, text=text)


class Slider(Element):
    """The browser's own slider; in NiceGUI's, the element that takes the focus has no label.

    Args:
        low: the minimal value.
        high: the maximal value.
        step: the distance between values.
        value: the first value.
        on_drag: called with each value while it is dragged.
        on_release: called with the value when it is released.
    """

    def __init__(
        self,
        low: float,
        high: float,
        step: float,
        *,
        value: float,
        on_drag: Callable[[float], object],
        on_release: Callable[[float], None],
    ) -> None:
        super().__init__("input")
        self._on_drag = on_drag
        self.props.update(type="range", min=low, max=high, step=step, value=value)
        self.on("input", lambda event: on_drag(float(event.args)), js_handler=_VALUE)
        self.on(
            "change", lambda event: self._leave(float(event.args), on_release), js_handler=_VALUE
        )

    def set_value(self, value: float) -> None:
        """Drag the slider to a value without releasing it."""
        self.props["value"] = value
        self._on_drag(value)

    def set_enabled(self, enabled: bool) -> None:
        """Enable or disable the slider."""
        self.props["disabled"] = not enabled

    def _leave(self, value: Any, on_release: Callable[[float], None]) -> None:
        self.props["value"] = value  # otherwise the next update would reset it
        on_release(float(value))


_VALUE = "event => emit(event.target.value)"
