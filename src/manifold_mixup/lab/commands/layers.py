"""``manifold-mixup layers``: which layers of a model can be mixed, as a table or as JSON."""

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:  # torch takes seconds to import, and the help page does not need it
    from manifold_mixup.lab.report.layer_table import Shown


@dataclass(frozen=True)
class Options:
    """Show which layers of a model can be mixed, and which are chosen by default.

    For each layer, the table has the shape of its output, its depth (the share of the forward
    pass's FLOPs up to its end), and the reason if it cannot be mixed.
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A model of the lab, such as preact-resnet18 ("list" prints all); timm:NAME;
    torchvision:NAME; or your own, as FILE.py:NAME or PACKAGE:NAME. NAME is a function without
    arguments that returns a model, or a model and a batch for it: a tensor, a tuple of positional
    arguments or a dict of keyword arguments."""
    shape: tuple[int, ...] = ()
    """Shape of one input, such as 3 224 224. By default, the size that a timm model was made for;
    for the lab's own models, 3 32 32 if they take images and 40 if they are perceptrons; and
    3 224 224 for all others."""
    classes: int = 10
    """Number of classes, for the lab's own models."""
    mask: str | None = None
    """Name of the input that is the padding mask, if ManifoldMixup should mix it too."""
    cuts: bool = False
    """Show only the layers that can be mixed."""
    match: tuple[str, ...] = ()
    """Show only layers whose names match a pattern. As in ManifoldMixup, 'blocks.*' is every
    block, but not the layers inside them."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Prepared:
    """Options whose model has been inspected."""

    shown: "Shown"
    json: bool


def prepare(options: Options) -> Prepared:
    """Build the model, inspect it, and pick the layers to show.

    Raises:
        ValueError: there is no such model, it fails on the input, or no layer matches.
    """
    from manifold_mixup.lab.models import named
    from manifold_mixup.lab.report.layer_table import pick

    for name, least in (("shape", min(options.shape, default=1)), ("classes", options.classes)):
        if least < 1:
            raise ValueError(f"--{name} has {least}. Expected numbers of 1 or more.")
    # What the model prints must not end up in the JSON.
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        table = named.inspect_named(
            options.model, shape=options.shape, classes=options.classes, mask=options.mask
        )
    shown = pick(options.model, table, cuts=options.cuts, match=options.match)
    return Prepared(shown, options.json)


def run(prepared: Prepared) -> bool:
    """Print the table and the default layers, or the same as JSON."""
    from manifold_mixup.lab.report import layer_table
    from manifold_mixup.lab.runs.files import finite
    from manifold_mixup.lab.terminal.console import Console

    if prepared.json:
        content = finite(layer_table.as_json(prepared.shown))
        print(json.dumps(content, indent=1, allow_nan=False))
        return True
    console = Console()
    for text in layer_table.lines(prepared.shown):
        console.print(text, soft_wrap=True)
    return True
