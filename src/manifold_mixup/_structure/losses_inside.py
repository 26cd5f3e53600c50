"""Advise what to do with a model that computes its loss itself."""

from collections.abc import Iterable, Sequence

from manifold_mixup._structure.row import listed

_BOXES = (
    "Sets of boxes have no mean: leave a detector unmixed; or compute its losses outside of it, "
    "from outputs with a row for each image, in a wrapped criterion whose target is "
    "torch.arange(batch), and which takes the boxes by these numbers"
)
_OMIT = (
    "Omit {}, and wrap the criterion; for the Transformers Trainer, "
    "manifold_mixup.integrations.transformers.add_to_trainer does both"
)


def loss_inside(targets: Sequence[str]) -> str:
    """Return the reason not to mix a model that reads these inputs as targets."""
    given = listed(list(dict.fromkeys(map(_argument, targets))))
    advice = way_out(targets) or _OMIT.format(given)
    return f"the model itself computes a loss from {given}, with unmixed targets. {advice}"


def way_out(names: Iterable[str]) -> str:
    """Return what to do if there are boxes of objects among these inputs; empty otherwise."""
    return _BOXES if any(name.split(".")[-1] == "boxes" for name in names) else ""


def _argument(path: str) -> str:
    """Return the list that holds the items of a target, such as the boxes of each image."""
    parts = path.split(".")
    items = (n for n, part in enumerate(parts[:-1]) if n and part.isdigit())
    return ".".join(parts[: next(items, len(parts))])
