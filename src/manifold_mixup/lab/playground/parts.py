"""Elements of plain HTML, which keyboards and screen readers know as what they are."""

from collections.abc import Callable
from typing import Any

from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement


class Text(TextElement):
    """A tag with text in it; whatever the text is, it is shown and not run."""

    def __init__(self, tag: str, *, text: str = "") -> None:
        super().__init__(tag=tag, text=text)


class Slider(Element):
    """The browser's own slider; the one that NiceGUI has takes its keys where it has no name.

    Args:
        low: the least value.
        high: the greatest.
        step: between two values.
        value: the first.
        on_drag: called with each value on the way.
        on_release: called with the value it is left at.
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
        self.props.update(type="range", min=low, max=high, step=step, value=value)
        self.on("input", lambda event: on_drag(float(event.args)), js_handler=_VALUE)
        self.on(
            "change", lambda event: self._leave(float(event.args), on_release), js_handler=_VALUE
        )

    def set_enabled(self, enabled: bool) -> None:
        """Let it be moved, or not."""
        self.props["disabled"] = not enabled

    def _leave(self, value: Any, on_release: Callable[[float], None]) -> None:
        self.props["value"] = value  # else it goes back when it is drawn anew
        on_release(float(value))


_VALUE = "event => emit(event.target.value)"
