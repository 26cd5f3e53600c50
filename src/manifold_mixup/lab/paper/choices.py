"""Tables 5 and 6: which layers are eligible, and which α (CIFAR-10, PreActResNet18)."""

from dataclasses import replace

from manifold_mixup.lab.evaluate.measures import ERROR
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.paper import at_input, longest, manifold, none
from manifold_mixup.lab.recipes.recipe import Recipe

# The paper reports accuracies in both tables.
_STAGES = ("input", "layer1", "layer2", "layer3")
_BY_S: dict[tuple[int, ...], float] = {
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
_BY_ALPHA = {
    0.5: (96.68, 96.76),
    1.0: (96.75, 97.00),
    1.2: (96.72, 97.03),
    1.5: (96.84, 97.10),
    1.8: (96.80, 97.15),
    2.0: (96.73, 97.23),
}


def table_5() -> Table:
    """Return Table 5: the eligible layers S, with α = 2."""
    plain, rows = longest(), list[Row]()
    for stages, accuracy in _BY_S.items():
        label = f"S = {{{', '.join(map(str, stages))}}}" if stages else "no mixup"
        paper = {"error": (round(100 - accuracy, 2),)}
        run = _mixing(plain, tuple(_STAGES[stage] for stage in stages))
        rows.append(Row(label, run, paper, "no mixup" if stages else ""))
    return Table("table-5", "Table 5: S, CIFAR-10, PreActResNet18", (ERROR,), tuple(rows))


def _mixing(plain: Recipe, layers: tuple[str, ...]) -> Recipe:
    """Return the recipe for some layers, named as in other tables so that runs are shared."""
    if layers in ((), ("input",)):
        return at_input(plain, 2.0) if layers else none(plain)
    run = manifold(plain, 2.0, layers)
    return (
        run
        if run == manifold(plain)
        else replace(run, method=f"{run.method} at {', '.join(layers)}")
    )


def table_6() -> Table:
    """Return Table 6: α of both kinds of mixup, with an added baseline without mixing."""
    plain = longest()
    rows = [Row("no mixup", none(plain), {})]
    for column, method in enumerate((at_input, manifold)):
        for alpha, accuracies in _BY_ALPHA.items():
            run = method(plain, alpha)
            paper = {"error": (round(100 - accuracies[column], 2),)}
            rows.append(Row(run.method, run, paper, "no mixup"))
    return Table("table-6", "Table 6: α, CIFAR-10, PreActResNet18", (ERROR,), tuple(rows))
