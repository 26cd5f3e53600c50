"""The random numbers of a plan."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manifold_mixup._draw.beta import beta_from_uniforms, symmetric_beta


class Draws:
    """The random numbers of a plan, in the stream that new runs draw.

    Args:
        numbers: three uniform numbers, for the layer and for one λ of the batch.
        generator: for everything else.
        draw_each: draws a λ for each example, from α and their number; None takes the generator.
    """

    def __init__(
        self,
        numbers: Sequence[float],
        generator: torch.Generator,
        draw_each: Callable[[float, int], Tensor] | None = None,
    ) -> None:
        self.numbers = numbers
        self.generator = generator
        self.draw_each = draw_each

    def layer(self, layers: Sequence[str]) -> str:
        """Draw one of the layers."""
        return layers[int(self.numbers[0] * len(layers))]

    def lam(self, alpha: float, own_alpha: float | None, batch: int | None) -> Tensor:
        """Draw λ.

        Args:
            alpha: α of the run.
            own_alpha: α of the way of mixing, if it has its own.
            batch: the number of examples, each with its λ; None for one λ.
        """
        alpha = alpha if own_alpha is None else own_alpha
        if batch is not None:
            if self.draw_each is not None:
                return self.draw_each(alpha, batch)
            return symmetric_beta(alpha, batch, self.generator).float()
        return one_lambda(alpha, self.numbers[1:])


def one_lambda(alpha: float, numbers: Sequence[float]) -> Tensor:
    """Return a λ for the batch, float32 ``()``, from two uniform numbers."""
    value = beta_from_uniforms(alpha, *numbers)
    return torch.scalar_tensor(value, dtype=torch.float32, device="cpu")


def uniforms(count: int, generator: torch.Generator) -> list[float]:
    """Draw numbers in [0, 1)."""
    numbers = torch.rand(count, dtype=torch.float64, generator=generator, device="cpu")
    return numbers.tolist()


def uniform(generator: torch.Generator) -> float:
    """Draw a number in [0, 1)."""
    return float(torch.rand((), dtype=torch.float64, generator=generator, device="cpu"))
