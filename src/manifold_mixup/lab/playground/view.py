"""Both networks side by side: pictures, numbers, and a curve over the epochs."""

import base64
import math
from collections.abc import Callable
from typing import Any

from nicegui import ui

from manifold_mixup.lab.playground.choice import NONE
from manifold_mixup.lab.playground.learner import Snapshot
from manifold_mixup.lab.playground.paint import SIDE
from manifold_mixup.lab.playground.parts import Text
from manifold_mixup.lab.playground.session import Frame, Session

_PLACES = ("the plane of the points", "the two hidden units")
_NUMBERS: dict[str, Callable[[Snapshot], str]] = {
    "training loss": lambda sight: "" if math.isnan(sight.loss) else f"{sight.loss:.4f}",
    "test error, %": lambda sight: f"{sight.error:.2f}",
    "test NLL, nats": lambda sight: f"{sight.nll:.4f}",
    "confidence above 0.95, % of the plane": lambda sight: f"{sight.inputs.confident:.1f}",
    "hidden variance within classes, %": lambda sight: f"{sight.within:.1f}",
}
_GREY, _BLUE = "#777777", "#0072B2"
_TEXT = "#767676"  # readable on white and on black


class View:
    """The view of a session.

    Args:
        session: the session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._shown: Frame | None = None
        self._curve: list[tuple[int, float, float]] = []
        with ui.element("div").classes("pair w-full"):
            self._names = [Text("h2") for _ in range(2)]
            self._images = {place: [_image(place) for _ in range(2)] for place in _PLACES}
        self._table()
        self._chart = ui.echart(_chart()).classes("w-full h-64")

    def refresh(self) -> None:
        """Show the latest frame if it is not shown yet."""
        frame, before = self._session.frame, self._shown
        if frame is None or frame is before:
            return
        if before is None or frame.choice != before.choice or frame.epoch <= before.epoch:
            self._curve.clear()
        self._shown = frame
        names = (NONE, frame.choice.method)
        for k, name in enumerate(names):
            self._show(k, name, frame)
        self._draw_curve(frame, names)

    def _table(self) -> None:
        self._heads, self._cells = [], []
        with Text("table").classes("numbers"):
            with Text("thead"), Text("tr"):
                Text("th", text="after this epoch").props("scope=col")
                self._heads = [Text("th").props("scope=col") for _ in range(2)]
            with Text("tbody"):
                for name in _NUMBERS:
                    with Text("tr"):
                        Text("th", text=name).props("scope=row")
                        self._cells.append([Text("td") for _ in range(2)])

    def _show(self, k: int, name: str, frame: Frame) -> None:
        panel = frame.panels[k]
        self._names[k].set_text(name)
        self._heads[k].set_text(name)
        for place, png in zip(_PLACES, (panel.inputs, panel.hidden), strict=True):
            image = self._images[place][k]
            image.props["src"] = f"data:image/png;base64,{base64.b64encode(png).decode()}"
            image.props["alt"] = f"{name}: predictions of the network over {place}"
        for row, text in zip(self._cells, _NUMBERS.values(), strict=True):
            row[k].set_text(text(panel.sight))

    def _draw_curve(self, frame: Frame, names: tuple[str, str]) -> None:
        first, second = (panel.sight.nll for panel in frame.panels)
        self._curve.append((frame.epoch, first, second))
        self._chart.options["xAxis"]["max"] = frame.epochs
        for k, name in enumerate(names):
            series = self._chart.options["series"][k]
            series["name"] = name
            series["data"] = [[row[0], row[1 + k]] for row in self._curve]
        self._chart.update()


def _image(place: str) -> ui.element:
    with ui.element("figure"):
        image = ui.element("img").props(f"width={SIDE} height={SIDE}")
        image.props["alt"] = place
        Text("figcaption", text=place)
    return image


def _chart() -> dict[str, Any]:
    axis = {
        "nameLocation": "middle",
        "axisLabel": {"color": _TEXT},
        "splitLine": {"lineStyle": {"color": "#80808040"}},
    }
    return {
        "animation": False,
        "aria": {"enabled": True},
        "textStyle": {"color": _TEXT},
        "legend": {"top": 0, "textStyle": {"color": _TEXT}},
        "tooltip": {"trigger": "axis"},
        "grid": {"left": 64, "right": 16, "top": 32, "bottom": 40},
        "xAxis": {"type": "value", "name": "epoch", "nameGap": 24, **axis},
        "yAxis": {"type": "log", "name": "test NLL, nats", "nameGap": 44, **axis},
        "series": [
            {
                "type": "line",
                "name": "",
                "showSymbol": False,
                "itemStyle": {"color": colour},
                "lineStyle": {"type": line, "width": 2},
                "data": [],
            }
            for colour, line in ((_GREY, "dashed"), (_BLUE, "solid"))
        ],
    }
