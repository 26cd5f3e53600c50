"""The paper's tables: the recipe of every row, and the numbers it reports.

Verma et al., Manifold Mixup: Better Representations by Interpolating Hidden States, ICML 2019
(arXiv 1806.05236v7). Where text and published code disagree, ``docs/reproduce.md`` says what was
taken and why.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from manifold_mixup.lab.recipes import Run


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: what the paper calls it.
        run: its recipe; ``None`` for a number that the paper itself only quotes.
        paper: what the paper reports, by metric; mean and, where given, standard deviation.
        base: label of the row it is compared with; empty for that row itself.
    """

    label: str
    run: Run | None
    paper: Mapping[str, tuple[float, ...]]
    base: str = ""


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes:
        name: by which it is asked for.
        title: what it shows.
        metrics: keys of what it reports.
        rows: its rows, those without mixing first.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]


# S of the paper: PreActResNets mix the input and the first two stages, wide ResNets one stage.
PREACT_S = ("input", "layer1", "layer2")
WRN_S = ("input", "layer1")

_PAPER = Run(
    loss="softmax_bce",
    batch=100,
    optimizer="sgd",
    lr=0.1,
    schedule="steps",
    weight_decay=1e-4,
    width=None,
    flip=True,
    crop=2,
)


def none(run: Run) -> Run:
    """Mix nothing."""
    return replace(run, method="no mixup", layers=())


def at_input(run: Run, alpha: float = 1.0) -> Run:
    """Mix at the input; the paper takes α = 1 on CIFAR and SVHN."""
    return replace(run, method=f"input mixup α={alpha:g}", layers=("input",), alpha=alpha)


def manifold(run: Run, alpha: float = 2.0, layers: tuple[str, ...] = ()) -> Run:
    """Mix at one of the eligible layers; the paper takes α = 2 on CIFAR and SVHN."""
    eligible = layers or (WRN_S if run.model.startswith("wrn") else PREACT_S)
    return replace(run, method=f"manifold mixup α={alpha:g}", layers=eligible, alpha=alpha)


def supervised(data: str, model: str) -> Run:
    """Return the paper's supervised protocol (appendix C): 1,200 epochs, or 400 for wide nets."""
    wide = model.startswith("wrn")
    epochs, milestones = (400, (200, 300)) if wide else (1200, (400, 800))
    return replace(
        _PAPER,
        data=data,
        model=model,
        epochs=epochs,
        milestones=milestones,
        flip=data != "svhn",  # a mirrored house number is another one
    )


Numbers = Mapping[str, Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]]


def _compared(data: str, numbers: Numbers) -> Iterator[Row]:
    """Yield the three methods on several networks, error and NLL each."""
    for model, methods in numbers.items():
        plain = supervised(data, model)
        runs = {"none": none(plain), "input": at_input(plain), "manifold": manifold(plain)}
        base = ""
        for key, (error, nll) in methods.items():
            if key in runs:
                label = f"{model}, {runs[key].method}"
                yield Row(label, runs[key], {"error": error, "nll": nll}, base)
                base = base or label
            else:
                yield Row(f"{model}, {key}", None, {"error": error}, base)


_C10: Numbers = {
    "preact-resnet18": {
        "none": ((4.83, 0.066), (0.190, 0.003)),
        "AdaMix (quoted)": ((3.52,), ()),
        "input mixup (quoted)": ((4.20,), ()),
        "input": ((3.82, 0.048), (0.186, 0.004)),
        "manifold": ((2.95, 0.046), (0.137, 0.003)),
    },
    "preact-resnet34": {
        "none": ((4.64, 0.072), (0.200, 0.002)),
        "input": ((2.88, 0.043), (0.176, 0.002)),
        "manifold": ((2.54, 0.047), (0.118, 0.002)),
    },
    "wrn-28-10": {
        "none": ((3.99, 0.118), (0.162, 0.004)),
        "input": ((2.92, 0.088), (0.173, 0.001)),
        "manifold": ((2.55, 0.024), (0.111, 0.001)),
    },
}
_C100: Numbers = {
    "preact-resnet18": {
        "none": ((24.01, 0.376), (1.189, 0.002)),
        "AdaMix (quoted)": ((20.97,), ()),
        "input mixup (quoted)": ((21.10,), ()),
        "input": ((22.11, 0.424), (1.055, 0.006)),
        "manifold": ((20.34, 0.525), (0.912, 0.002)),
    },
    "preact-resnet34": {
        "none": ((23.55, 0.399), (1.189, 0.002)),
        "input": ((20.53, 0.330), (1.039, 0.045)),
        "manifold": ((18.35, 0.360), (0.877, 0.053)),
    },
    "wrn-28-10": {
        "none": ((21.72, 0.117), (1.023, 0.004)),
        "input": ((18.89, 0.111), (0.927, 0.031)),
        "manifold": ((18.04, 0.171), (0.809, 0.005)),
    },
}
_SVHN: Numbers = {
    "preact-resnet18": {
        "none": ((2.89, 0.224), (0.136, 0.001)),
        "input": ((2.76, 0.014), (0.212, 0.011)),
        "manifold": ((2.27, 0.011), (0.122, 0.006)),
    },
    "preact-resnet34": {
        "none": ((2.97, 0.004), (0.165, 0.003)),
        "input": ((2.67, 0.020), (0.199, 0.009)),
        "manifold": ((2.18, 0.004), (0.137, 0.008)),
    },
    "wrn-28-10": {
        "none": ((2.80, 0.044), (0.143, 0.002)),
        "input": ((2.68, 0.103), (0.184, 0.022)),
        "manifold": ((2.06, 0.068), (0.126, 0.008)),
    },
}


def table_1a() -> Table:
    """CIFAR-10."""
    rows = tuple(_compared("cifar-10", _C10))
    return Table("table-1a", "Table 1(a): CIFAR-10", ("error", "nll"), rows)


def table_1b() -> Table:
    """CIFAR-100."""
    rows = tuple(_compared("cifar-100", _C100))
    return Table("table-1b", "Table 1(b): CIFAR-100", ("error", "nll"), rows)


def table_2() -> Table:
    """SVHN."""
    return Table("table-2", "Table 2: SVHN", ("error", "nll"), tuple(_compared("svhn", _SVHN)))


def table_3() -> Table:
    """Tiny-ImageNet, top-1 and top-5 error; the paper prints accuracies."""
    plain = replace(
        _PAPER,
        data="tiny-imagenet",
        model="preact-resnet18",
        epochs=2000,
        milestones=(1000, 1500),
        crop=4,
    )
    accuracy = {
        "none": {0.0: (55.52, 71.04)},
        "input": {0.2: (56.47, 71.74), 0.5: (55.49, 71.62), 1: (52.65, 70.70), 2: (44.18, 68.26)},
        "manifold": {
            0.2: (58.70, 73.59),
            0.5: (57.24, 73.48),
            1: (56.83, 73.75),
            2: (48.14, 71.69),
        },
    }
    build: dict[str, Callable[[float], Run]] = {
        "none": lambda alpha: none(plain),
        "input": lambda alpha: at_input(plain, alpha),
        "manifold": lambda alpha: manifold(plain, alpha),
    }
    rows = [
        Row(
            (run := build[kind](alpha)).method,
            run,
            {"error": (round(100 - top1, 2),), "top5_error": (round(100 - top5, 2),)},
            "" if kind == "none" else "no mixup",
        )
        for kind, found in accuracy.items()
        for alpha, (top1, top5) in found.items()
    ]
    title = "Table 3: Tiny-ImageNet, PreActResNet18"
    return Table("table-3", title, ("error", "top5_error"), tuple(rows))


def table_5() -> Table:
    """The choice of S on CIFAR-10; the paper prints accuracies."""
    plain = _long()
    names = ("input", "layer1", "layer2", "layer3")
    accuracy = {
        (): 95.27,
        (0, 1, 2): 97.23,
        (0, 1): 96.94,
        (0, 1, 2, 3): 96.92,
        (1, 2): 96.35,
        (0,): 96.73,
        (1, 2, 3): 96.51,
        (1,): 96.10,
        (2, 3): 95.32,
        (2,): 95.19,
    }
    rows = []
    for places, value in accuracy.items():
        layers = tuple(names[place] for place in places)
        label = f"S = {{{', '.join(map(str, places))}}}"
        run = replace(manifold(plain, 2.0, layers), method=label) if layers else none(plain)
        paper = {"error": (round(100 - value, 2),)}
        rows.append(Row(run.method, run, paper, "no mixup" if layers else ""))
    return Table(
        "table-5", "Table 5: which layers, CIFAR-10, PreActResNet18", ("error",), tuple(rows)
    )


def table_6() -> Table:
    """The choice of α on CIFAR-10; the paper prints accuracies and no row without mixing."""
    plain = _long()
    accuracy = {
        0.5: (96.68, 96.76),
        1.0: (96.75, 97.00),
        1.2: (96.72, 97.03),
        1.5: (96.84, 97.10),
        1.8: (96.80, 97.15),
        2.0: (96.73, 97.23),
    }
    rows = [Row("no mixup", none(plain), {})]
    for kind, build in enumerate((at_input, manifold)):
        for alpha, both in accuracy.items():
            run = build(plain, alpha)
            rows.append(Row(run.method, run, {"error": (round(100 - both[kind], 2),)}, "no mixup"))
    return Table("table-6", "Table 6: α, CIFAR-10, PreActResNet18", ("error",), tuple(rows))


def _long() -> Run:
    run = supervised("cifar-10", "preact-resnet18")
    return replace(run, epochs=2000, milestones=(1000, 1500))
