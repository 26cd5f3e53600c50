"""The recipe ``fast``: an error on the test set in the least time on two cores of a CPU.

Settings come from parts of the training sets that were held out (docs/performance.md).
"""

from manifold_mixup.lab.recipes.recipe import Recipe, input_mixup, manifold_mixup

TARGETS = {("mnist-1d", "cnn"): 2.0, ("fashion-mnist", "factor-cnn"): 8.5}
"""Error to be reached at the last epoch, in percent, for each data set and model."""

_ALPHA = {"mnist-1d": 0.2, "fashion-mnist": 0.1}

_PLAIN = {
    "mnist-1d": Recipe(data="mnist-1d", model="cnn", width=32, epochs=15, batch=100, lr=3e-2),
    "fashion-mnist": Recipe(
        data="fashion-mnist", model="factor-cnn", width=16, epochs=4, batch=64, lr=1e-2,
        flip=True, channels_last=True,
    ),
}  # fmt: skip


def fast(data: str, model: str) -> tuple[Recipe, ...]:
    """Return no mixup, input mixup and manifold mixup, all with the same budget.

    Raises:
        ValueError: there is no such recipe for the data set and the model.
    """
    if (data, model) not in TARGETS:
        known = " and ".join(f"{model} on {data}" for data, model in TARGETS)
        raise ValueError(
            f"the recipe fast was made for {known}, not for {model} on {data}. "
            f"Take modern, or one of these."
        )
    plain, alpha = _PLAIN[data], _ALPHA[data]
    return plain, input_mixup(plain, alpha=alpha), manifold_mixup(plain, alpha=alpha)
