"""The results as Markdown tables."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import mean, median, stdev
from typing import Any

from benchmarks.turns import FEWEST, WIDE, Timing

Found = dict[str, Any]


def page(result: Found) -> str:
    """Return all results as a page."""
    machine, versions = result["machine"], result["versions"]
    parts = [
        "# Benchmarks",
        f"{machine['cpu']} ({machine.get('instructions', 'instructions not recorded')}), "
        f"{machine['cores']} cores, {result['threads']} threads; device "
        f"{result['effort']['device']}; PyTorch {versions['torch']}, Python {result['python']}; "
        f"{result['date']}, commit {result['git']}. Medians over rounds in which all rows take "
        f"turns. Ratios are to the first row of the same round; their interquartile range is in "
        f"brackets. If it is wider than {100 * WIDE:.0f} % of the median, the machine was too "
        f"busy, and no ratio is shown. None is shown either for fewer than {FEWEST} rounds.",
    ]
    for name, write in _WRITERS.items():
        if name in result:
            parts += write(result[name])
    return "\n\n".join(parts) + "\n"


def _mix(title: str, note: str, found: Found) -> Iterator[str]:
    groups: dict[tuple[str, str], list[Found]] = {}
    for cell in found["cells"]:
        groups.setdefault((cell["dtype"], cell["mode"]), []).append(cell)
    if groups:
        yield from (f"## {title}", note)
    for (dtype, mode), cells in groups.items():
        header = [f"{cell['megabytes']:.0f} MB {cell['phase']}" for cell in cells]
        names = [timing["name"] for timing in cells[0]["timings"]]
        rows = [
            (name, *(_in_cell(Timing(**cell["timings"][k]), first=k == 0) for cell in cells))
            for k, name in enumerate(names)
        ]
        yield f"{dtype}, {mode}:\n\n{table(('', *header), rows)}"


def _in_cell(timing: Timing, *, first: bool) -> str:
    if first:
        return f"{timing.milliseconds:.2f} ms"
    return timing.fault or f"{timing.ratio:.2f}"


def _ways(title: str, found: Found) -> Iterator[str]:
    """Write a table for each type, memory format and mode: copies forward and backward."""
    groups: dict[tuple[str, ...], list[Found]] = {}
    for cell in found["cells"]:
        groups.setdefault((cell["dtype"], cell["layout"], cell["mode"]), []).append(cell)
    if groups:
        yield from (f"## {title}", _OF_A_COPY)
    for settings, cells in groups.items():
        header = [f"{cell['shape']} {cell['phase']}" for cell in cells]
        names = [timing["name"] for timing in cells[0]["timings"]]
        rows = [
            (name, *(_in_cell(Timing(**cell["timings"][k]), first=k == 0) for cell in cells))
            for k, name in enumerate(names)
        ]
        yield f"{', '.join(settings)}:\n\n{table(('', *header), rows)}"
    for side in found["inputs"]:
        rounds = side["timings"][0]["rounds"]
        yield (
            f"Draw, mix, model and loss at the input, {side['batch']} x 3 x {side['shape']} "
            f"({rounds} rounds):\n\n{_timings(side['timings'], 2)}"
        )


_OF_A_COPY = (
    "Ratios to a copy of a state of 64 MB, forward, or of its gradient, backward. Forward, a drawn "
    "plan becomes positions or patches, and the state is mixed."
)


def _peers(found: Found) -> Iterator[str]:
    yield "## A step with other implementations"
    yield _timings(found["timings"])


def _fixed(found: Found) -> Iterator[str]:
    yield "## The fixed cost of a step"
    yield (
        "What a step of an MLP of four layers takes beyond the plain step, with a batch of 64: "
        "processor time of one thread. Ratios of the medians to that of the plain formula, with "
        "their 95 % intervals; single rounds scatter more."
    )
    for width, timings in found.items():
        yield f"width {width} ({timings[0]['rounds']} rounds):\n\n{_timings(timings, 3)}"


def _adapters(found: Found) -> Iterator[str]:
    yield "## The fixed cost in an adapter"
    yield (
        f"What mixing adds to a step of the MLP of width 64 above, in a model of Transformers: "
        f"processor time of one thread, as multiples of what it adds in a loop of one's own "
        f"({found['timings'][0]['rounds']} rounds)."
    )
    yield _timings(found["timings"], 3)


def _step(found: Found) -> Iterator[str]:
    yield "## A training step"
    for name, timings in found.items():
        yield f"{name} ({timings[0]['rounds']} rounds):\n\n{_timings(timings)}"


def _timings(rows: Sequence[Found], digits: int = 1) -> str:
    return table(
        ("", "ms", "ratio"),
        [
            (one.name, f"{one.milliseconds:.{digits}f}", _ratio(one))
            for one in (Timing(**row) for row in rows)
        ],
    )


def _ratio(timing: Timing) -> str:
    low, high = timing.range
    return f"{timing.fault or f'{timing.ratio:.3f}'} ({low:.3f} to {high:.3f})"


def _accuracy(found: Found) -> Iterator[str]:
    yield "## Time to accuracy"
    yield (
        "The recipe `fast`, with the same budget with and without mixing; mean ± standard "
        "deviation over seeds. Seconds: training time, without evaluation."
    )
    for name, part in found.items():
        rows = [
            (
                row["method"],
                _spread(row["seconds"], 1),
                _spread(row["last"], 2),
                _spread(row["best"], 2),
                f"{sum(error <= part['target'] for error in row['last'])} of {len(row['last'])}",
            )
            for row in part["rows"]
        ]
        head = (
            "", "seconds", "error %, last epoch", "error %, best epoch",
            f"seeds at {part['target']:g} % or less",
        )  # fmt: skip
        yield f"{name}, {part['recipe']['epochs']} epochs:\n\n{table(head, rows)}"


def _spread(values: Sequence[float], digits: int) -> str:
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def _memory(found: Found) -> Iterator[str]:
    yield "## Peak memory of a training step"
    yield (
        "Memory beyond that before the step, with mixing at the first, middle and last of twelve "
        "layers. On the CPU, bytes of tensors are counted."
    )
    rows = []
    for name, peaks in found.items():
        plain, *mixed = peaks.values()
        more = (
            f"{(peak - plain) / 1e6:+.1f} MB ({100 * peak / plain - 100:+.1f} %)" for peak in mixed
        )
        rows.append((name, f"{plain / 1e6:.0f} MB", *more))
    yield table(("", "plain step", "first", "middle", "last"), rows)


def _training(found: Found) -> Iterator[str]:
    yield "## Training end to end"
    yield (
        "A step of each loop compared with a step of a plain PyTorch loop that runs in turns with "
        "it. PreActResNet18 on random images of 32 x 32."
    )
    for precision, part in found.items():
        rows = [Timing(**row) for row in part["timings"]]
        lines = [
            (
                one.name,
                f"{one.milliseconds:.1f}",
                f"{1e3 * part['batch'] / one.milliseconds:,.0f}",
                _ratio(one),
            )
            for one in rows
        ]
        head = ("", "ms per step", "images per second", "ratio")
        loader = f"Our loader alone: {part['loader_milliseconds']:.2f} ms per step."
        yield f"{precision} ({rows[0].rounds} steps):\n\n{table(head, lines)}\n\n{loader}"


def _counts(found: Found) -> Iterator[str]:
    yield "## Counts beyond the plain step of a 12-block network"
    state = found["state"]
    yield table(
        ("eligible layers", "operator calls", "numbers read", "allocated, in states", "at peak"),
        [
            (
                str(layers),
                f"+{cost['calls']}",
                f"+{cost['reads']}",
                f"+{cost['allocated'] / state:.2f}",
                f"+{cost['peak'] / state:.2f}",
            )
            for layers, cost in found["beyond"].items()
        ],
    )
    yield table(
        (
            "way, 3 eligible layers",
            "operator calls",
            "numbers read",
            "allocated, in states",
            "at peak",
        ),
        [
            (
                f"`{name}`",
                f"+{cost['calls']}",
                f"+{cost['reads']}",
                f"+{cost['allocated'] / state:.2f}",
                f"+{cost['peak'] / state:.2f}",
            )
            for name, cost in found["ways"].items()
        ],
    )
    yield (
        "Interpolation reads λ and the loss; the other numbers are of the box and of the patches. "
        "All are read on the CPU only, so no read waits for a GPU."
    )
    yield f"Graphs of a compiled model with 3 eligible layers: {found['graphs']}."


def _look(found: Found) -> Iterator[str]:
    yield "## Looking at a model"
    yield (
        "`find_layers` on timm's models with two images, processor time of one thread: the first "
        "time in a process, and the median of further times. Operators: of a plain forward pass, "
        "and of a look, which runs two on tensors without values and copies the output of every "
        "module."
    )
    head = ("", "first, s", "again, s", "modules", "operators, plain", "operators, look")
    rows = [
        (
            name,
            *(f"{row[key]:.2f}" for key in ("first", "again")),
            *(f"{row[key]:,}" for key in ("modules", "plain", "looked")),
        )
        for name, row in found["families"].items()
    ]
    yield table(head, rows)
    firsts = [row["first"] for row in found["families"].values()]
    yield f"First times: median {median(firsts):.2f} s, greatest {max(firsts):.2f} s."
    yield (
        "Loops over time in the model's Python code, in forward passes in turns with the look: "
        "processor time of one thread."
    )
    yield table(
        ("", "forward pass, s", "look, passes", "operators, plain", "operators, look"),
        [
            (
                row["name"],
                f"{row['plain']:.3f}",
                f"{row['ratio']:.1f}",
                f"{row['operators']:,}",
                f"{row['looked']:,}",
            )
            for row in found["loops"]
        ],
    )
    yield (
        "The first step with `mask=`, which looks and proves the layers: a BERT of 12 layers of "
        "width 384 and 30,000 tokens, 8 sentences of 64, forward and backward. Processor time of "
        "one thread, in plain steps that run in turns with it."
    )
    yield table(
        ("eligible layers", "plain step, s", "first step, plain steps", "passes of the proof"),
        [
            (str(row["layers"]), f"{row['plain']:.2f}", f"{row['ratio']:.2f}", str(row["passes"]))
            for row in found["first"]
        ],
    )


def _imports(found: Found) -> Iterator[str]:
    yield (
        f"Importing the library after torch: {found['manifold_mixup']:.0f} ms (torch itself: "
        f"{found['torch']:.0f} ms)."
    )


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table with right-aligned numbers."""
    rule = ("---",) + ("---:",) * (len(head) - 1)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


_WRITERS: dict[str, Callable[[Found], Iterator[str]]] = {
    "mix": partial(
        _mix,
        "The mix alone",
        "Ratios to a copy of the same bytes: of the state for forward, of its gradient for "
        "backward, of both for both.",
    ),
    "mix-kept": partial(
        _mix,
        "The mix alone, with freed memory kept",
        "Above, large freed blocks return to the system, which zeroes every page before it hands "
        "it out again. Here they stay with the process, as in the lab.",
    ),
    "ways": partial(_ways, "Ways of mixing"),
    "ways-kept": partial(_ways, "Ways of mixing, with freed memory kept"),
    "fixed": _fixed,
    "adapters": _adapters,
    "peers": _peers,
    "step": _step,
    "training": _training,
    "accuracy": _accuracy,
    "memory": _memory,
    "counts": _counts,
    "look": _look,
    "imports": _imports,
}
