"""A chain with a block in its middle, and a step of its training."""

import torch
from torch import Tensor, nn

from manifold_mixup import ManifoldMixup

BATCH = 6
X = torch.randn(BATCH, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(BATCH) % 3


class Gate(nn.Module):
    """A block with parameters, a buffer that training changes, and a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.bn(self.fc(x)))


def built(block: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    first, last = nn.Linear(8, 8), nn.Linear(8, 3)
    torch.manual_seed(1)
    return nn.Sequential(first, Gate() if block is None else block, last)


def step(model: nn.Module, mixup: ManifoldMixup) -> list[Tensor]:
    """Return the loss of a first batch, the gradients, and the buffers afterwards."""
    loss = mixup.wrap(nn.CrossEntropyLoss())(model(X), Y)
    loss.backward()
    named = sorted(dict(model.named_parameters()).items())
    return [loss, *(parameter.grad for _, parameter in named), *model.buffers()]
