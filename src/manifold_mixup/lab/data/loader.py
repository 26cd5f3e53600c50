"""Shuffled and augmented batches of a data set that stays on the model's device."""

from collections.abc import Iterator

import torch
from torch import Tensor

from manifold_mixup.lab.data.arrays import as_input
from manifold_mixup.lab.data.augment import Augment
from manifold_mixup.lab.seeds import seeded


class Loader:
    """Batches of a training set.

    The order and the augmentation of an epoch depend only on (seed, epoch), and are drawn at once
    on the CPU. They are the same on every device, and an epoch can be resumed at any step.

    Args:
        x: stored inputs, which are moved to ``device``.
        y: labels.
        batch: examples per step, over all processes.
        augment: the augmentation of images.
        seed: the seed, the same for all processes.
        device: the device of the data and the batches.
        rank: rank of this process.
        world: number of processes that share a batch. A last batch with fewer examples than
            processes is left out.
        channels_last: use channels-last memory format for images.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch: int,
        *,
        augment: Augment | None = None,
        seed: int,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        channels_last: bool = False,
    ) -> None:
        self.x, self.y = x.to(device), y.to(device)
        self.batch = batch
        self.augment = augment or Augment()
        self.seed = seed
        self.rank = rank
        self.world = world
        self.channels_last = channels_last and x.ndim == 4
        if len(x) < world:
            raise ValueError(f"{world} processes cannot share {len(x)} training examples.")
        if self.augment and x.ndim != 4:
            raise ValueError(
                f"only images can be augmented, but the inputs have shape {tuple(x.shape[1:])}. "
                f"Turn off flip, crop and cutout."
            )

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        whole, rest = divmod(len(self.x), self.batch)
        return whole + (rest >= self.world)

    def epoch(self, number: int, *, start_step: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield ``(inputs, labels)``, with float32 inputs.

        Args:
            number: the number of the epoch.
            start_step: the number of batches to skip at the beginning.
        """
        order, draws = self._draw(number)
        for step in range(start_step, len(self)):
            share = slice(step * self.batch, (step + 1) * self.batch)
            rows = order[share].tensor_split(self.world)[self.rank]
            x = self.x.index_select(0, rows)
            if self.augment:
                x = self.augment(x, draws[share].tensor_split(self.world)[self.rank])
            x = as_input(x)
            if self.channels_last:
                x = x.contiguous(memory_format=torch.channels_last)
            yield x, self.y.index_select(0, rows)

    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seeded("epoch", self.seed, number))
        order = torch.randperm(len(self.x), generator=generator)
        draws = torch.empty(0)
        if self.augment:
            height, width = self.x.shape[2:]
            draws = self.augment.draw(len(self.x), (height, width), generator)
        return order.to(self.x.device), draws.to(self.x.device)


def parts(x: Tensor, y: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Split a batch into parts, for gradient accumulation."""
    return zip(x.tensor_split(count), y.tensor_split(count), strict=True)
