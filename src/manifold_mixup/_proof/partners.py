"""Choose the partners of the examples, so that a wrong mix cannot go unnoticed."""

import torch
from torch import Tensor


def shifted(count: int) -> Tensor:
    """Return the next example as the partner of each."""
    return torch.arange(count, device="cpu").roll(-1)


def swapped(count: int) -> Tensor:
    """Return an order with the first two examples exchanged.

    Only the identity commutes with this order and with `shifted`. So a batch that is reordered
    inside the model and restored later is detected.
    """
    order = torch.arange(count, device="cpu")
    order[:2] = order[:2].flip(0)
    return order


def single_pass_partners(count: int, first: int, second: int) -> Tensor:
    """Return partners with which one pass tests a layer; ``first`` and ``second`` are a pair.

    No reordering but the identity commutes with these, and no example is its own partner.
    """
    rest = [index for index in range(count) if index not in (first, second)]
    partners = torch.empty(count, dtype=torch.int64, device="cpu")
    of_each = [second, first, first, *rest]
    partners[[first, second, *rest]] = torch.tensor(of_each[:count], device="cpu")
    return partners


def most_different_padding(valid: Tensor) -> tuple[int, int]:
    """Return two examples, the first of which has many positions that the second has not.

    Args:
        valid: the valid positions of the examples, ``(batch, time)``.
    """
    valid = valid.cpu()
    alone = (valid[:, None] & ~valid[None]).sum(2)
    first, second = divmod(int(alone.argmax()), len(valid))
    return (first, second) if first != second else (0, 1)
