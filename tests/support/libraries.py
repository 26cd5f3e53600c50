# ruff: noqa: T201 (a command, which prints its table)
"""The sweep over other libraries: which hidden layers are chosen in their models, and proven?

    pip install -r tests/support/sweep/requirements.txt
    python tests/support/libraries.py                  # all
    python tests/support/libraries.py braindecode smp  # those with these words in their name

It writes docs/libraries.md. Each model is small, with random weights and valid input. Its layers
are chosen automatically and proven as in training. On a sample of all its modules, what the
structure says is compared with a proof in which the states are mixed by hand. Where no layer at a
sensible depth is proven, the page says what crosses it and in which line of code, and how many of
the layers at such depths pass that proof by hand.
"""

import gc
import importlib
import math
import os
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from architectures import disagreeing, layers_in, prove_by_hand
from manifold_mixup import LayerRow, LayerTable, ManifoldMixup, find_layers
from manifold_mixup._layers import is_input
from manifold_mixup._structure.choice import EARLIEST, LATEST
from sweep.impossible import IMPOSSIBLE

TABLE = Path(__file__).parents[2] / "docs" / "libraries.md"
REQUIREMENTS = Path(__file__).parent / "sweep" / "requirements.txt"
MODULES = ("eeg", "language", "tables_and_series", "time_first", "vision")
SAMPLE = 8  # modules for which both views are compared
INSIDE = 16  # layers at sensible depths that are tried by hand
SECOND = "## Rows without proven layers at these depths"
THIRD = "## Also trained"  # written by hand; the sweep leaves it as it is

# What a user has to say about a model: where the batch is, which outputs the loss reads.
OPTIONS: dict[str, dict[str, Any]] = {
    "snntorch/Leaky, time first": {"batch_dim": 1},
    "torch/LSTM tagger, time first": {"batch_dim": 1},
    "torch/language model, time first": {"batch_dim": 1},
    "torch/TransformerEncoder tagger, time first": {"batch_dim": 1},
    "torch/TransformerEncoder classifier, time first": {"batch_dim": 1},
    "torch/leaking state, time first": {"batch_dim": 1},
    "torchgeo/CROMA": {"outputs": "joint_GAP"},
    "spikingjelly/LIFNode, time first": {"batch_dim": 1},
    "transformers/patchtst, prediction": {"outputs": "prediction_outputs"},
    "transformers/informer": {"outputs": "params"},
    "transformers/clip": {"outputs": "image_embeds"},
    "transformers/bart": {"outputs": "logits"},
    "transformers/bart, padded": {"outputs": "logits"},
}

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass
class Result:
    """The result for one model.

    Attributes:
        name: library and model.
        layers: the chosen layers.
        shares: the hidden layers' positions by the measure that chose them.
        measure: that measure.
        carries: whether other tensors are mixed with one of them.
        mask: the padding mask that is mixed too; empty without one.
        verdicts: what the proof says of them.
        agree: how many of the sampled modules agree in both views, of how many.
        graphs: whether the examples are graphs, whose layers follow the pooling, however late.
        note: why there is none, or what failed.
        by_hand: if it does not count, what the proof by hand says of the layers at sensible depths.
        seconds: the time of looking and of proving.
    """

    name: str
    layers: tuple[str, ...] = ()
    shares: tuple[float, ...] = ()
    measure: str = ""
    carries: bool = False
    mask: str = ""
    verdicts: str = ""
    agree: str = ""
    graphs: bool = False
    note: str = ""
    by_hand: str = ""
    seconds: list[float] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether there are hidden layers at a sensible depth, and all are proven."""
        return self._is_inside(1.0 if self.graphs else LATEST)

    @property
    def counts(self) -> bool:
        """Whether they are at a sensible depth by the measure for all models."""
        return self._is_inside(LATEST)

    def _is_inside(self, latest: float) -> bool:
        inside = self.shares and all(EARLIEST <= share <= latest for share in self.shares)
        return bool(inside) and self.verdicts == "proven"


def cases(words: list[str]) -> Iterator[tuple[str, Callable[[], Built]]]:
    """Yield the models with one of the words in their name, or all."""
    for module in MODULES:
        for name, build in importlib.import_module(f"sweep.{module}").cases():
            if not words or any(word in name for word in words):
                yield name, build


def examine(name: str, build: Callable[[], Built]) -> Result:
    """Choose the layers of a model, prove them, and compare both views on a sample."""
    result = Result(name)
    torch.manual_seed(0)
    model, args, kwargs = build()
    start = time.perf_counter()
    options = OPTIONS.get(name, {})
    table = find_layers(model, *args, **options, **kwargs)
    result.seconds.append(time.perf_counter() - start)
    result.mask = _mask(table)
    mixed = table.with_mask(result.mask) if result.mask else table
    try:
        result.layers = mixed.default
    except ValueError as error:
        result.note = str(error)
    _describe(result, mixed)
    start = time.perf_counter()
    if result.layers:
        _prove(result, model, args, kwargs, options)
    names = layers_in(table)
    names = names[:: max(1, len(names) // SAMPLE)][:SAMPLE]
    by_hand = prove_by_hand(model, table, names, args, kwargs, options.get("outputs"))
    result.agree = f"{len(names) - len(disagreeing(table, by_hand))}/{len(names)}"
    if not result.counts:
        result.by_hand = _by_hand(result, model, table, args, kwargs)
    result.seconds.append(time.perf_counter() - start)
    return result


def _prove(result: Result, model: nn.Module, args: Any, kwargs: Any, options: Any) -> None:
    """Attach to the chosen layers, as for a training, and prove them."""
    example = kwargs if kwargs and not args else (args if not kwargs else None)
    how = {"example": example, "mask": result.mask or None, **options}
    try:
        with ManifoldMixup(model, result.layers, **how) as mixup:
            report = mixup.verify(*args, **kwargs)
    except ValueError as error:  # with a mask, or what else is mixed too
        result.note, result.verdicts = str(error), "failed"
        return
    result.verdicts = " ".join(sorted({proof.verdict for proof in report.layers}))
    result.note = "; ".join(proof.reason for proof in report.layers if proof.reason)


def _by_hand(result: Result, model: nn.Module, table: LayerTable, args: Any, kwargs: Any) -> str:
    """Mix by hand at the layers at sensible depths; say what is proven, and the least error."""
    inside = {row.name for row in table if _is_inside(row)}
    names = [name for name in layers_in(table) if name in inside]
    names = names[:: -(-len(names) // INSIDE)] if names else []
    if not names:
        return "no layer ends there"
    if result.mask:
        mixup = ManifoldMixup(model, names, mask=result.mask, check=False)
        report = mixup.verify(*args, **kwargs)
        mixup.remove()
    else:
        outputs = OPTIONS.get(result.name, {}).get("outputs")
        report = prove_by_hand(model, table, names, args, kwargs, outputs)
    verdicts = Counter(proof.verdict for proof in report.layers)
    failed = [proof for proof in report.layers if proof.verdict == "failed"]
    errors = [proof.error / proof.difference for proof in failed if proof.error < math.inf]
    counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
    return counted + (f"; error {min(errors):.0%} or more" if errors else "")


def _is_inside(row: LayerRow) -> bool:
    return any(EARLIEST <= share <= LATEST for share in (row.depth, row.parameters))


def _mask(table: LayerTable) -> str:
    """Return the padding mask that the table says to mix too if there is no choice without it."""
    try:
        table.default  # noqa: B018 (it raises if there is none)
    except ValueError:
        return next((row.mask for row in table if row.mask and not row.cut), "")
    return ""


def _describe(result: Result, table: LayerTable) -> None:
    rows = {row.name: row for row in table}
    hidden = [rows[name] for name in result.layers if not is_input(name)]
    measure = {"FLOPs": "depth"}.get(table.measure, table.measure)
    result.shares = tuple(getattr(row, measure) for row in hidden)
    result.measure = table.measure if hidden else ""
    result.carries = any(row.carries for row in hidden)
    result.graphs = table.graphs


def main(words: list[str]) -> None:
    """Run the sweep, print the results, and write the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    known, seconds = (_known_rows(first=True), _known_rows(first=False)) if words else ({}, {})
    names = []
    for name, build in cases([]):
        names.append(name)
        if words and not any(word in name for word in words):
            continue
        try:
            with redirect_stdout(sys.stderr):
                result = examine(name, build)
        except Exception as error:
            result = Result(name, note=f"{type(error).__name__}: {error}")
        known[name] = _line(result)
        seconds.pop(name, None)
        if not result.counts:
            seconds[name] = _second_line(result)
        print("ok  " if result.good else "none", known[name], flush=True)
        took = ", ".join(f"{part:.1f}" for part in result.seconds)
        print(f"     {took} s {result.note}", file=sys.stderr, flush=True)
        gc.collect()
    rows = ([found[name] for name in names if name in found] for found in (known, seconds))
    by_hand = TABLE.read_text().partition(THIRD) if TABLE.exists() else ()
    TABLE.write_text("\n".join([_page(*rows), "".join(by_hand[1:])]))


def _known_rows(*, first: bool) -> dict[str, str]:
    """Read the rows of the first or the second table of the page, by model."""
    parts = TABLE.read_text().partition(SECOND) if TABLE.exists() else ("", "", "")
    lines = parts[0 if first else 2].splitlines()
    return {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}


def _second_line(result: Result) -> str:
    """Return the row that says what crosses, where, and what a proof by hand finds."""
    crossing = IMPOSSIBLE.get(result.name)
    said = (crossing.tensor, crossing.place, crossing.why) if crossing else ("", "", "")
    cells = (result.name, said[0], said[1], result.by_hand or "cannot be tried", said[2])
    cells = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(cells)} |"


def _line(result: Result) -> str:
    layers = ", ".join(f"`{name}`" for name in result.layers)
    shares = ", ".join(f"{share:.2f}" for share in result.shares)
    measure = "" if result.measure in ("", "FLOPs") else f" of the {result.measure}"
    more = "yes" if result.carries else ""
    with_more = ", ".join(filter(None, (more, result.mask and f"`{result.mask}`")))
    note = " ".join(result.note.split()).replace("|", "\\|")[:200] if not result.good else ""
    cells = (
        result.name,
        layers or "none",
        shares + measure,
        with_more,
        result.verdicts,
        result.agree,
        note,
    )
    return f"| {' | '.join(cells)} |"


def at_sensible_depth(row: str) -> bool:
    """Return whether the hidden layers of a row of the page lie at sensible depths."""
    depths = re.findall(r"\d\.\d\d", row.split(" | ")[2])
    return all(EARLIEST <= float(depth) <= LATEST for depth in depths)


def _page(rows: list[str], without: list[str]) -> str:
    libraries = [line.partition("==")[0] for line in REQUIREMENTS.read_text().split()]
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", *libraries))
    proven = [row for row in rows if " | proven | " in row]
    good = sum(map(at_sensible_depth, proven))
    return "\n".join(
        [
            "# Models of other libraries",
            "",
            "`python tests/support/libraries.py` writes this page: which layers",
            "`layers=None, example=x` chooses in small models of other libraries, and whether",
            "the permutation proof confirms them.",
            "",
            f"{len(proven)} of {len(rows)} models have chosen layers that are proven. In {good} of",
            f"them the hidden layers lie at depths of {EARLIEST} to {LATEST}. With {versions}.",
            "",
            "- *depth*: fraction of the FLOPs, or of what is named, up to the end of the hidden",
            "  layers.",
            "- *with more*: whether other tensors that cross the depth are mixed too, and which",
            "  padding mask (`mask=`).",
            "- A name that ends in `@1` is one run of a module that runs several times, and one in",
            "  `@*` all of them.",
            "- *views agree*: modules on which structure and numbers agree, of those tried, when",
            "  the states are mixed by hand. Where the numbers do not decide, they do not agree.",
            "",
            "| model | layers | depth | with more | proof | views agree | why not |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            SECOND,
            "",
            "Depths are those by FLOPs or by parameters. *By hand*: the permutation proof of the",
            f"layers that end at such depths (at most {INSIDE}, evenly sampled), with their states",
            "mixed by hand. The error is how far the outputs are from those of the partners, as a",
            "share of the difference between examples.",
            "",
            "| model | what crosses | where | by hand | why, and the way out |",
            "| --- | --- | --- | --- | --- |",
            *without,
            "",
        ]
    )


if __name__ == "__main__":
    main(sys.argv[1:])
