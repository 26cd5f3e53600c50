"""Interpolation consistency on unlabelled examples (ICT, Verma et al., 2019)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.data.augment import Augment
from manifold_mixup.lab.seeds import seeded
from manifold_mixup.lab.training.adversarial import buffers_as_before


class Unlabelled:
    """Draws batches of unlabelled inputs, with replacement.

    Args:
        x: stored inputs, on the device of the batches.
        augment: the augmentation of images.
        seed: the seed of the run.
        rank: rank of this process.
        channels_last: use channels-last memory format for images.
    """

    def __init__(
        self, x: Tensor, augment: Augment, *, seed: int, rank: int, channels_last: bool = False
    ) -> None:
        self.x = x
        self.augment = augment
        self.seed = seed
        self.rank = rank
        self.channels_last = channels_last and x.ndim == 4

    def batch(self, count: int, step: int, part: int = 0) -> Tensor:
        """Return ``count`` inputs, which depend on seed, rank, step and part only."""
        seed = seeded("unlabelled", self.seed, self.rank, step, part)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(self.x), (count,), generator=generator).to(self.x.device)
        x = self.x.index_select(0, rows)
        if self.augment:
            height, width = x.shape[2:]
            draws = self.augment.draw(count, (height, width), generator)
            x = self.augment(x, draws.to(x.device))
        x = as_input(x)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


def consistency(
    student: nn.Module,
    mixup: ManifoldMixup,
    teacher: Callable[[Tensor], Tensor],
    unlabelled: Tensor,
) -> Tensor:
    """Return how far the student's output of a mix is from the mix of the teacher's outputs.

    It is the mean squared difference of their softmax.

    Args:
        student: the model that trains, in train mode.
        mixup: what mixes it.
        teacher: returns logits, without a gradient.
        unlabelled: the inputs.
    """

    def distance(output: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(output.float().softmax(1), target)

    guessed = teacher(unlabelled).float().softmax(1)
    loss: Tensor = mixup.wrap(distance, targets="mix")(student(unlabelled), guessed)
    return loss


def teach(teacher: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of a mean teacher in train mode, without a trace in its buffers."""
    teacher.train()
    with torch.no_grad(), buffers_as_before(teacher):
        logits: Tensor = teacher(x)
    return logits


def ramp(progress: float, share: float) -> float:
    """Return the part of the weight that counts: ``exp(-5(1 - t)²)`` up to ``share``, then 1.

    Args:
        progress: the share of the training that is done.
        share: the share over which the weight rises.

    Examples:
        >>> [round(ramp(progress, 0.5), 4) for progress in (0, 0.25, 0.5, 1)]
        [0.0067, 0.2865, 1.0, 1.0]
    """
    if progress >= share:
        return 1.0
    return math.exp(-5 * (1 - progress / share) ** 2)
