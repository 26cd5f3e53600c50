"""Tables 1 to 3: methods on several networks and data sets, error and likelihood."""

from collections.abc import Callable, Iterator, Mapping

from manifold_mixup.lab.evaluate.measures import ERROR, NLL, TOP5_ERROR
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.paper import adversarial, at_input, manifold, none, supervised
from manifold_mixup.lab.recipes.recipe import Recipe

Numbers = Mapping[str, Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]]]


def _compared(data: str, numbers: Numbers) -> Iterator[Row]:
    """Yield rows for the methods on several networks, with error and NLL."""
    for model, methods in numbers.items():
        plain = supervised(data, model)
        runs = {
            "none": none(plain),
            "input": at_input(plain),
            "manifold": manifold(plain),
            "adversarial": adversarial(plain),
        }
        base = ""
        for key, (error, nll) in methods.items():
            if key in runs:
                label = f"{model}, {runs[key].method}"
                reported = {"error": error, "nll": nll} if error else {}
                yield Row(label, runs[key], reported, base, model)
                base = base or label
            else:
                yield Row(f"{model}, {key}", None, {"error": error}, base, model)


_C10: Numbers = {
    "preact-resnet18": {
        "none": ((4.83, 0.066), (0.190, 0.003)),
        "AdaMix (quoted)": ((3.52,), ()),
        "input mixup (quoted)": ((4.20,), ()),
        "input": ((3.82, 0.048), (0.186, 0.004)),
        "manifold": ((2.95, 0.046), (0.137, 0.003)),
        "adversarial": ((), ()),  # not in the paper's table
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
        "adversarial": ((), ()),
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
    """Return Table 1(a): CIFAR-10."""
    rows = tuple(_compared("cifar-10", _C10))
    return Table("table-1a", "Table 1(a): CIFAR-10", (ERROR, NLL), rows)


def table_1b() -> Table:
    """Return Table 1(b): CIFAR-100."""
    rows = tuple(_compared("cifar-100", _C100))
    return Table("table-1b", "Table 1(b): CIFAR-100", (ERROR, NLL), rows)


def table_2() -> Table:
    """Return Table 2: SVHN."""
    return Table("table-2", "Table 2: SVHN", (ERROR, NLL), tuple(_compared("svhn", _SVHN)))


def table_3() -> Table:
    """Return Table 3: Tiny-ImageNet, top-1 and top-5 error; the paper reports accuracies."""
    plain = supervised("tiny-imagenet", "preact-resnet18")
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
    build: dict[str, Callable[[float], Recipe]] = {
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
        for kind, by_alpha in accuracy.items()
        for alpha, (top1, top5) in by_alpha.items()
    ]
    title = "Table 3: Tiny-ImageNet, PreActResNet18"
    return Table("table-3", title, (ERROR, TOP5_ERROR), tuple(rows))
