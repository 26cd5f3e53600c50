"""``manifold-mixup layers``: where a model can be mixed, as a table or as JSON."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:  # torch takes seconds to load, and the help of this command needs none of it
    from manifold_mixup.lab.report.layer_table import Shown


@dataclass(frozen=True)
class Options:
    """Show where a model can be mixed, and which layers are chosen if none is named.

    For every layer: the shape of its output, the share of the FLOPs of the forward pass that is
    spent when it ends, and the reason if it cannot be mixed.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A model of the lab, such as preact-resnet18 (list shows them); timm:NAME; torchvision:NAME;
    or your own, FILE.py:NAME or PACKAGE:NAME, a function without arguments that returns a model, or
    a model and one batch for it: a tensor, a tuple of positional or a dict of keyword arguments."""
    shape: tuple[int, ...] = ()
    """Shape of one input, such as 3 224 224. If left out, what a model of timm is made for; 3 32 32
    for the lab's own networks of images, 40 for its perceptrons; and 3 224 224 for all others."""
    classes: int = 10
    """Classes of the lab's own models."""
    mask: str | None = None
    """Name of the padding mask among the inputs, if ManifoldMixup is to mix it too."""
    cuts: bool = False
    """Leave out the layers that cannot be mixed."""
    match: tuple[str, ...] = ()
    """Show only layers whose names fit, read as ManifoldMixup reads them: 'blocks.*' is every
    block, and nothing inside of one."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Prepared:
    """Options whose model has been looked at."""

    shown: "Shown"
    json: bool


def prepare(options: Options) -> Prepared:
    """Build the model, look at it, and pick what is shown.

    Raises:
        ValueError: there is no such model, it does not take such an input, or no layer matches.
    """
    from manifold_mixup.lab.models import named
    from manifold_mixup.lab.report.layer_table import pick

    for name, least in (("shape", min(options.shape, default=1)), ("classes", options.classes)):
        if least < 1:
            raise ValueError(f"--{name} has {least}. Expected numbers of 1 or more.")
    # What a model prints while it is built and run must not end up in the JSON.
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        table = named.look(
            options.model, shape=options.shape, classes=options.classes, mask=options.mask
        )
    shown = pick(options.model, table, cuts=options.cuts, match=options.match)
    return Prepared(shown, options.json)


def run(prepared: Prepared) -> bool:
    """Print the table and the layers that would be chosen, or the same as JSON."""
    from manifold_mixup.lab.report import layer_table
    from manifold_mixup.lab.runs.files import finite
    from manifold_mixup.lab.terminal.console import Console

    if prepared.json:
        found = finite(layer_table.as_json(prepared.shown))
        print(json.dumps(found, indent=1, allow_nan=False))
        return True
    console = Console()
    for text in layer_table.lines(prepared.shown):
        console.print(text, soft_wrap=True)
    return True
