"""Numbers from the text of section 5.1, the ICLR submission's 4,000 labels, and wrong labels."""

from dataclasses import replace

from manifold_mixup.lab.evaluate.measures import ERROR, NLL, Measure
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.paper import at_input, manifold, none, supervised
from manifold_mixup.lab.recipes.recipe import Recipe

Numbers = tuple[tuple[Recipe, tuple[float, ...]], ...]
"""Recipes with the paper's numbers: none, a mean, or a mean and a standard deviation."""


def preact50() -> Table:
    """Return the regularisers on PreActResNet50 with 600 epochs.

    The paper does not state the schedule, the dropout probability or the size of cutout. As in
    other tables, the learning rate drops after each third of the epochs. Dropout is 0.3. Cutout
    is 16, as in the authors' code.
    """
    plain = supervised("cifar-10", "preact-resnet50")
    plain = none(replace(plain, epochs=600, milestones=(200, 400)))
    rows = (
        (plain, (4.96, 0.19)),
        (replace(plain, method="dropout 0.3", dropout=0.3), (5.09, 0.09)),
        (replace(plain, method="cutout 16", cutout=16), (4.77, 0.38)),
        (at_input(plain), (4.25, 0.11)),
        (manifold(plain), (3.77, 0.18)),
    )
    title = "Section 5.1: regularisers on CIFAR-10, PreActResNet50"
    return Table("preact50", title, (ERROR,), _rows(rows))


def gradient_block() -> Table:
    """Return the experiment that blocks the gradient of the mixed batch at the mixed layer."""
    plain = supervised("cifar-10", "preact-resnet18")
    mixed = manifold(plain)
    blocked = replace(mixed, method=f"{mixed.method}, gradient blocked", block_gradient=True)
    rows = (
        (none(plain), (4.83, 0.066)),
        (at_input(plain), (3.82, 0.048)),
        (mixed, (2.95, 0.046)),
        (blocked, (4.33,)),
    )
    title = "Section 5.1: gradient blocked at the mixed layer, CIFAR-10, PreActResNet18"
    return Table("gradient-block", title, (ERROR,), _rows(rows))


def knn() -> Table:
    """Return the nearest neighbours on the features, with k = 5; the paper does not state k."""
    neighbours = Measure(
        "knn",
        "error % of 5 nearest neighbours",
        battery=("neighbours", "nearest neighbours"),
        field="error",
    )
    plain = supervised("cifar-10", "preact-resnet18")
    rows = ((none(plain), (6.09,)), (at_input(plain), (5.54,)), (manifold(plain), (5.16,)))
    title = "Section 5.1: nearest neighbours on top-layer features, CIFAR-10, PreActResNet18"
    return Table("knn", title, (neighbours, ERROR), _rows(rows, key="knn"))


def low_data() -> Table:
    """Return the ICLR submission's PreActResNet152 with 400 labels per class; it has one number."""
    plain = replace(supervised("cifar-10", "preact-resnet152"), per_class=400)
    rows: Numbers = (
        (none(plain), ()),
        (at_input(plain), ()),
        (manifold(plain), (13.64,)),
    )
    title = "ICLR submission: 4,000 labels of CIFAR-10, PreActResNet152"
    return Table("low-data", title, (ERROR,), _rows(rows))


def label_noise() -> Table:
    """Return a table of trainings with wrong labels, which the paper does not have."""
    rows: list[Row] = []
    for share in (0.2, 0.4):
        group = f"{100 * share:g} % wrong labels"
        plain = replace(supervised("cifar-10", "preact-resnet18"), label_noise=share)
        base = ""
        for run in (none(plain), at_input(plain), manifold(plain)):
            label = f"{group}, {run.method}"
            noisy = replace(run, method=f"{run.method}, {group}")
            rows.append(Row(label, noisy, {}, base, group))
            base = base or label
    title = "Label noise: CIFAR-10 with wrong training labels, PreActResNet18"
    note = (
        "Symmetric noise: a share of the training labels is another class, all others equally "
        "likely, drawn once for each seed and the same for all methods. The test set is clean."
    )
    return Table("label-noise", title, (ERROR, NLL), tuple(rows), note=note)


def _rows(
    numbers: tuple[tuple[Recipe, tuple[float, ...]], ...], *, key: str = "error"
) -> tuple[Row, ...]:
    """Return rows of recipes and numbers; the first is the baseline."""
    base = numbers[0][0].method
    return tuple(
        Row(run.method, run, {key: paper} if paper else {}, "" if run.method == base else base)
        for run, paper in numbers
    )
