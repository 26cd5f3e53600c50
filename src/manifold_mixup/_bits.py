"""Choose between numbers by arithmetic on their bits, which is exact for any of them.

On the CPU, torch.where takes one number at a time. Two operations on whole vectors of integers take
less time.
"""

import torch
from torch import Tensor

_INTEGERS = {
    torch.float32: torch.int32,
    torch.float64: torch.int64,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


HALF = (torch.float16, torch.bfloat16)
"""Types of which the arithmetic of floats takes longer than that of integers."""


def has_bits(x: Tensor) -> bool:
    """Return whether numbers of this type can be chosen by their bits."""
    return x.dtype in _INTEGERS


def bits(x: Tensor) -> Tensor:
    """Return the numbers as integers, in the same memory."""
    return x.view(_INTEGERS[x.dtype])


def as_factor(chosen: Tensor, x: Tensor) -> Tensor:
    """Return 1 where ``chosen``, else 0, in the type of the bits of ``x``."""
    return as_numbers(chosen, _INTEGERS[x.dtype])


def as_numbers(chosen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1 where ``chosen``, else 0; bytes are converted faster than bools."""
    if torch.compiler.is_compiling():
        return chosen.to(dtype)
    return chosen.view(torch.uint8).to(dtype)


def choose(into: Tensor, x: Tensor, partner: Tensor, factor: Tensor) -> None:
    """Write ``partner`` where ``factor`` is 1, else ``x``; all of them integers.

    ``into`` may be ``partner``. A difference that overflows wraps around, and back again.
    """
    torch.sub(partner, x, out=into)
    torch.addcmul(x, into, factor, out=into)


def keep(into: Tensor, x: Tensor, factor: Tensor) -> None:
    """Write 0 where ``factor`` is 0, else the number whose bits are ``x``."""
    torch.mul(x, factor, out=bits(into))


IN_BACKWARD = (has_bits, bits, as_factor, as_numbers, choose, keep)
"""The functions that the autograd engine calls, which the compiler sees as separate frames."""
