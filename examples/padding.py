"""Padded sequences: four ways to mix inside an encoder or after it.

    python examples/padding.py --data FOLDER      # the files that _sentences.py names

All ways use the same weights, order, layers, λ and pairs. ManifoldMixup allows two of them only
with ``check=False``: the states are mixed as if they had no padding, and later blocks read the
sentence's own mask, or the union of both masks, as in MixText. docs/padding.md explains why the
first way is right, and has the table.
"""

from functools import partial

from torch import nn

from _table import compare
from _training import classification, fit, predict
from manifold_mixup import ManifoldMixup
from text import PLACES, SETTINGS, Net, load

ENCODER = {"layers": PLACES["encoder"], "alpha": 0.2}
WAYS = {
    "mask= mixes the masks": ENCODER,
    "union of the masks": {**ENCODER, "masks": "union"},
    "own mask": {**ENCODER, "masks": "own"},
    "pooled vector": {"layers": PLACES["pooled"], "alpha": 0.2},
    "no mixup": {},
}
TABLES = {
    task: {way: {"task": task, **SETTINGS, **own} for way, own in WAYS.items()}
    for task in ("TREC", "SST-2")
}


def mixed(model, layers, *, alpha, masks):
    """Attach mixing to a `Net`, with mixed masks, the union of both, or the sentence's own mask."""
    if masks == "mixed":
        return ManifoldMixup(model, layers, mask="mask", alpha=alpha)
    mixup = ManifoldMixup(model, layers, alpha=alpha, check=False)  # the check would refuse this
    if masks == "union":
        readers = {f"blocks.{index}": block for index, block in enumerate(model.blocks)}
        readers["pool"] = model.pool
        for name, reader in readers.items():
            hook = partial(_join, mixup, name)
            reader.register_forward_pre_hook(hook, with_kwargs=True)
    return mixup


def _join(mixup, name, module, args, kwargs):
    """Pass the union of both masks to a module after the mixed layer."""
    if not module.training or mixup.plan is None or not _after(name, mixup.plan.layer):
        return None
    perm = mixup.plan.perm
    if name == "pool":
        h, mask = args
        return (h, mask | mask[perm]), kwargs
    padding = kwargs["src_key_padding_mask"]
    return args, {**kwargs, "src_key_padding_mask": padding & padding[perm]}


def _after(name, layer):
    order = ["embed", "blocks.0", "blocks.1", "pool"]
    return order.index(name) > order.index(layer)


def train(
    tasks,
    *,
    task: str,
    lr: float,
    epochs: int,
    layers: tuple = (),
    alpha: float = 1.0,
    masks: str = "mixed",
):
    """Train a network and return its scores."""
    sizes, data, scored = tasks[task]
    model, criterion = Net(*sizes), nn.CrossEntropyLoss()
    if layers:
        criterion = mixed(model, layers, alpha=alpha, masks=masks).wrap(criterion)
    fit(model, criterion, data, lr=lr, epochs=epochs, batch=64)
    return classification(*predict(model, scored))


if __name__ == "__main__":
    compare(__doc__, load, train, TABLES, quick={"rows": 200, "epochs": 5})
