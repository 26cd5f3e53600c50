"""The paper's figures as tables, with a number for every claim."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.evaluate.measures import ERROR, NLL, Measure
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.paper import SMALL, at_input, manifold, none, supervised
from manifold_mixup.lab.recipes.recipe import Recipe

# For its spirals, the paper states no optimizer, no schedule and no α of manifold mixup.
_SPIRALS = replace(
    SMALL,
    data="spirals",
    model="spiral-mlp",
    epochs=500,
    batch=100,
    lr=1e-3,
    schedule="one-cycle",
)
_BOTTLENECK = ("spectra", "bottleneck")
_SPIRAL_COLUMNS = (
    NLL,
    ERROR,
    Measure(
        "confident",
        "% of the plane with confidence above 0.95",
        digits=1,
        battery=("plane", "inputs"),
        field="confident",
    ),
    Measure(
        "within",
        "% of the hidden variance that is within classes",
        battery=_BOTTLENECK,
        field="within",
    ),
    Measure(
        "second",
        "% of the hidden variance along the second direction of a class",
        battery=_BOTTLENECK,
        field="second",
    ),
)
_SPIRAL_NOTE = (
    "The paper shows pictures and no numbers. It states nine layers, a bottleneck of two units, "
    "α = 1 for input mixup and dropout of 50 %. The other settings are ours: 200 points per class, "
    "128 units, Adam, 500 epochs, α = 2 for manifold mixup, and the amounts of noise and weight "
    "decay."
)


def figure_1() -> Table:
    """Return Figure 1: no mixup, input mixup, and manifold mixup at the bottleneck."""
    methods = (none(_SPIRALS), at_input(_SPIRALS), manifold(_SPIRALS))
    return _spiral_table("figure-1", "Figure 1: two spirals", methods)


def figure_2() -> Table:
    """Return Figure 2: other regularisers compared with manifold mixup."""
    plain = none(_SPIRALS)
    methods = (
        plain,
        replace(plain, method="weight decay 0.001", weight_decay=1e-3),
        replace(plain, method="noise 0.1", noise=0.1),
        replace(plain, method="dropout 0.5", dropout=0.5),
        replace(plain, method="batch norm", batch_norm=True),
        at_input(_SPIRALS),
        manifold(_SPIRALS),
    )
    return _spiral_table("figure-2", "Figure 2: two spirals, other regularisers", methods)


def _spiral_table(name: str, title: str, methods: tuple[Recipe, ...]) -> Table:
    return Table(
        name,
        title,
        _SPIRAL_COLUMNS,
        tuple(_row(run, methods[0].method) for run in methods),
        settings=Settings(spectra=("bottleneck",)),
        note=_SPIRAL_NOTE,
        picture="plane",
    )


_LOSS = Measure("train_loss", "training loss", digits=4, training=True)
_LOSS_NOTE = (
    "The training loss of the last epoch, of mixed batches if the row mixes. In the paper's "
    "figures, the loss with a blocked gradient is above input mixup, and the loss of mixing at the "
    "deepest layer is lowest: training can move states so that mixed states become easy, but only "
    "if the gradient reaches the states."
)


_MNIST = replace(_SPIRALS, data="mnist", epochs=30, batch=256, lr=1e-4, schedule="constant")
"""As in the authors' code for Figure 5; the text states neither optimizer nor epochs."""


def figure_5() -> Table:
    """Return Figure 5: states of MNIST digits at a bottleneck of two units."""
    rows = []
    for group, data in (("digits 0 to 4", "mnist-0-4"), ("digits 0 to 9", "mnist")):
        plain = none(replace(_MNIST, data=data, model="mnist-mlp-2"))
        for run in (plain, at_input(plain, 0.5), manifold(plain, 0.5)):
            label = f"{group}, {run.method}"
            base = "" if run is plain else f"{group}, {plain.method}"
            rows.append(Row(label, run, {}, base, group))
    return Table(
        "figure-5",
        "Figure 5: two hidden units, MNIST",
        (*_SPIRAL_COLUMNS[3:], ERROR, NLL),
        tuple(rows),
        settings=Settings(spectra=("bottleneck",)),
        note="The paper shows pictures and no numbers. α = 0.5 as in the authors' code.",
        picture="states",
    )


def figure_6() -> Table:
    """Return Figure 6: training loss by mixed layer, PreActResNet18 on CIFAR-10."""
    plain = supervised("cifar-10", "preact-resnet18")
    return _loss_table("figure-6", "Figure 6: training loss, CIFAR-10, PreActResNet18", plain)


def figure_7() -> Table:
    """Return Figure 7: training loss by mixed layer, PreActResNet50 on CIFAR-100."""
    plain = supervised("cifar-100", "preact-resnet50")
    return _loss_table("figure-7", "Figure 7: training loss, CIFAR-100, PreActResNet50", plain)


def _loss_table(name: str, title: str, plain: Recipe) -> Table:
    mixed = manifold(plain)
    fixed = (
        replace(manifold(plain, layers=(layer,)), method=f"{mixed.method} at {layer}")
        for layer in ("layer1", "layer2", "layer3")
    )
    blocked = replace(mixed, method=f"{mixed.method}, gradient blocked", block_gradient=True)
    methods = (none(plain), at_input(plain, 2.0), *fixed, mixed, blocked)
    rows = tuple(_row(run, methods[0].method) for run in methods)
    return Table(name, title, (_LOSS, ERROR), rows, note=_LOSS_NOTE, picture="curves")


# Mean greatest singular value of no mixup, input mixup and manifold mixup (Figures 9 to 11).
_NETWORKS = {
    "mnist-mlp-12": ("12 units after three layers", (50.08, 37.17, 43.44)),
    "mnist-mlp-30": ("30 units after three layers", (14.68, 12.49, 14.43)),
    "mnist-mlp-30-early": ("30 units after one layer", (33.64, 27.60, 24.60)),
}
_SPECTRA_NOTE = (
    "States of the bottleneck on the test set, not centred, as the paper's seem to be. The paper's "
    "numbers are from Figures 9 to 11. For a first hidden layer, section 3.2 states s₁ and the sum "
    "of the others: no mixup 51.73 and 78.67 (s₁ is 39.7 % of all), weight decay 33.76 and 73.36 "
    "(31.5 %), dropout 28.83 and 77.47 (27.1 %), input mixup 33.46 and 66.89 (33.3 %), manifold "
    "mixup 31.65 and 40.98 (43.6 %). Optimizer, epochs and examples are not stated: we use Adam "
    "with 10⁻⁴, batches of 256 and 30 epochs, as in the authors' code for Figure 5. α = 1 for "
    "input mixup, weight decay 10⁻⁴ and dropout 0.5 are our choices."
)


def spectra() -> Table:
    """Return the singular values of a class's states at a bottleneck, MNIST (appendix G)."""

    def column(key: str, title: str, digits: int, better: Literal["lower", "higher"]) -> Measure:
        name, field = _BOTTLENECK, key if key == "within" else f"uncentred.{key}"
        return Measure(key, title, digits=digits, better=better, battery=name, field=field)

    columns = (
        column("s1", "s₁", 2, "lower"),
        column("rest", "sum of the other singular values", 2, "lower"),
        column("s1_share", "s₁ in % of the sum of all", 1, "higher"),
        column("outside", "% of the squares outside the first direction", 1, "lower"),
        column("within", "% of the variance of all states that is within classes", 1, "lower"),
        ERROR,
    )
    rows = tuple(row for model in _NETWORKS for row in _spectra_rows(model))
    return Table(
        "spectra",
        "Spectra of hidden states on MNIST (appendix G)",
        columns,
        rows,
        settings=Settings(spectra=("bottleneck",)),
        note=_SPECTRA_NOTE,
        picture="spectra",
    )


def _spectra_rows(model: str) -> Iterator[Row]:
    group, (of_none, of_input, of_manifold) = _NETWORKS[model]
    plain = none(replace(_MNIST, model=model))
    base = f"{group}, {plain.method}"
    methods = (
        (plain, (of_none,)),
        (replace(plain, method="weight decay 0.0001", weight_decay=1e-4), ()),
        (replace(plain, method="dropout 0.5", dropout=0.5), ()),
        (at_input(plain), (of_input,)),
        (manifold(plain), (of_manifold,)),
    )
    for run, paper in methods:
        label = f"{group}, {run.method}"
        yield Row(label, run, {"s1": paper} if paper else {}, "" if label == base else base, group)


def _row(run: Recipe, base: str) -> Row:
    return Row(run.method, run, {}, "" if run.method == base else base)
