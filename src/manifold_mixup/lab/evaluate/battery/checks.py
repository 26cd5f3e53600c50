"""What `evaluate` needs of data and outputs, with errors that name what does not fit."""

from dataclasses import replace

from torch import Tensor

from manifold_mixup.lab.data import Data


def checked(data: Data) -> Data:
    """Return the data with labels as int64, which indexing and losses need.

    Raises:
        ValueError: there is no test example, or labels are not classes, one for each input.
    """
    if not len(data.x_test):
        raise ValueError(f"{data.name} has no test examples. Expected at least one.")
    y, y_test = data.y, _classes(data, "y_test", data.y_test, len(data.x_test))
    if not y.is_floating_point():  # soft labels are for training alone
        y = _classes(data, "y", y, len(data.x))
    return replace(data, y=y, y_test=y_test)


def _classes(data: Data, name: str, y: Tensor, count: int) -> Tensor:
    if y.is_floating_point() or y.is_complex() or y.shape != (count,):
        kind = str(y.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} of {data.name} has {kind} of shape {tuple(y.shape)}. Expected the class of "
            f"each input as an integer, ({count},)."
        )
    y = y.long()
    if count and (y.min() < 0 or y.max() >= data.classes):
        raise ValueError(
            f"{name} of {data.name} has classes from {int(y.min())} to {int(y.max())}, but classes "
            f"is {data.classes}. Expected 0 to {data.classes - 1}."
        )
    return y


def require_logits(outputs: Tensor, data: Data, *, count: int, of: str) -> None:
    """Raise a `ValueError` if outputs are not a logit for each example and class.

    Args:
        outputs: the outputs.
        data: the data.
        count: the number of examples.
        of: whose outputs they are, for the message.
    """
    if outputs.ndim != 2 or len(outputs) != count or outputs.shape[1] < data.classes:
        raise ValueError(
            f"{of} for {count} test examples of {data.name} have shape {tuple(outputs.shape)}. "
            f"Expected logits, {(count, data.classes)}: a row for each example, and a column for "
            f"each of the {data.classes} classes."
        )


def undefined(logits: Tensor, *, of: str = "test examples") -> str:
    """Return a note if inputs have no probabilities, since logits are NaN or infinite, or ""."""
    count = int((~logits.double().softmax(1).isfinite().all(1)).sum())
    if not count:
        return ""
    return (
        f"{count} of the {len(logits)} {of} have logits that are NaN or infinite, and no "
        f"probabilities. What needs those is left out, and an error counts any class for them. "
        f"Find out why the model returns them."
    )
