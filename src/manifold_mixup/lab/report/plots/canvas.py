"""The common style and palette of all pictures, and how they are written."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from manifold_mixup.lab.runs import files

COLOURS = ("#777777", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
"""Okabe and Ito's palette, which suits every kind of colour vision; the baseline is grey."""

LINES = ("--", "-.", "-")
MARKERS = ("s", "^", "o", "D", "v", "P", "X")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "manifold-mixup",  # makes the ids in a file reproducible
    "svg.fonttype": "none",  # text that can be searched, in a smaller file
}


# Where the font is missing, Verdana is alike.
_FONT, _FONTS = b"'DejaVu Sans'", b"'DejaVu Sans', Verdana, sans-serif"


class Picture(NamedTuple):
    """A picture as PNG and as SVG; a notebook displays the PNG."""

    png: bytes
    svg: bytes

    def _repr_png_(self) -> bytes:
        return self.png


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure in our style; sizes are in inches. Global settings do not change."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure


def picture(figure: Figure) -> Picture:
    """Render a figure; call this inside its `canvas`."""
    return Picture(_rendered(figure, "png"), _rendered(figure, "svg"))


def _rendered(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    rendered = file.getvalue()
    return rendered if kind == "png" else rendered.replace(_FONT, _FONTS)


def save(picture: Picture, path: Path) -> list[Path]:
    """Write a picture as ``.png`` and ``.svg``; return the paths."""
    written = []
    for kind, content in picture._asdict().items():
        written.append(path.with_suffix(f".{kind}"))
        files.write(written[-1], content)
    return written


def colour(k: int) -> str:
    """Return the colour of the k-th method."""
    return COLOURS[k % len(COLOURS)]
