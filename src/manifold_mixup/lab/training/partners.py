"""Partners from the whole training set that are near in the target (C-Mixup)."""

import torch
from torch import Tensor

from manifold_mixup import MixPlan


class NearPartners:
    """Draws examples of a training set that are near in the target.

    For a target ``y``, example ``j`` is drawn with a probability proportional to
    ``exp(-(y - y_j)² / 2s²)``, with replacement, the example itself included (Yao et al., 2022,
    Eq. 6).

    Args:
        y: the targets of the training set, ``(n,)``.
        bandwidth: ``s``, in the units of the targets.
    """

    def __init__(self, y: Tensor, bandwidth: float) -> None:
        # Equal targets have equal weights, so they are drawn as one, and then one of them.
        values, value_index, counts = y.double().unique(return_inverse=True, return_counts=True)
        self.values, self.counts = values, counts
        self.members = value_index.argsort(stable=True)
        self.starts = counts.cumsum(0) - counts
        self.bandwidth = bandwidth

    def draw(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return the number of a partner for each target, int64 ``(batch,)``.

        Args:
            y: the targets of the batch.
            generator: a CPU generator.
        """
        which, within = (
            torch.rand(len(y), dtype=torch.float64, generator=generator).to(y.device)
            for _ in range(2)
        )
        gap = y.double()[:, None] - self.values
        # The nearest value has the weight 1, so that not all weights round to 0.
        squared = gap.square() - gap.square().amin(1, keepdim=True)
        weights = self.counts * torch.exp(-squared / (2 * self.bandwidth**2))
        sums = weights.cumsum(1)
        value = torch.searchsorted(sums, which[:, None] * sums[:, -1:], right=True)[:, 0]
        value = value.clamp_max(len(self.values) - 1)
        place = (within * self.counts[value]).long().clamp_max(self.counts[value] - 1)
        rows: Tensor = self.members[self.starts[value] + place]
        return rows


def beside_partners(plan: MixPlan) -> MixPlan:
    """Return the plan of a batch that is followed by its partners, which stay as they are.

    Row ``i`` of the batch is mixed with row ``batch + i``.
    """
    count = plan.batch
    lam = torch.cat([plan.lam.expand(count), torch.ones(count)])
    partners = torch.arange(count, 2 * count)
    return MixPlan(plan.layer, lam, torch.cat([partners, partners]))
