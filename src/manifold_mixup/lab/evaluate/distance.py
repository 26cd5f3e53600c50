"""The distance of inputs to the training set in a model's features, as a score of outliers.

Sun et al. (2022), "Out-of-Distribution Detection with Deep Nearest Neighbors": features are scaled
to length 1, and the score is minus the distance to the k-th nearest training example.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

K = 50
"""The authors' k for CIFAR-10."""

BANK = 10_000
"""The most training examples that are compared; of more, as many are drawn at random."""


@dataclass(frozen=True)
class FeatureBank:
    """The features of training examples, each of length 1, and the neighbour that counts."""

    features: Tensor
    k: int

    def score(self, features: Tensor) -> Tensor:
        """Return minus the distance of each row to its k-th nearest example, ``(n,)``."""
        own, rough = F.normalize(features.double()), self.features.float().T
        # In float32 the products find the neighbour; its distance is then computed without
        # cancellation, so that nearby inputs do not tie.
        nearest = [
            (part.float() @ rough).topk(self.k, dim=1).indices[:, -1] for part in own.split(500)
        ]
        distance: Tensor = (own - self.features[torch.cat(nearest)]).norm(dim=1)
        return -distance


def feature_bank(features: Tensor, *, k: int = K) -> FeatureBank:
    """Return the bank of the features of training examples, ``(n, features)``.

    With fewer than ``k`` examples, the farthest one counts.
    """
    return FeatureBank(F.normalize(features.double()), min(k, len(features)))


def sample(x: Tensor, *, generator: torch.Generator, most: int = BANK) -> Tensor:
    """Return all training inputs, or ``most`` random ones if there are more."""
    if len(x) <= most:
        return x
    return x[torch.randperm(len(x), generator=generator)[:most].to(x.device)]
