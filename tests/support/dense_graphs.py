"""Networks on graphs of equal size with a dense adjacency, with their mixed pass by hand."""

import torch
from torch import nn

from carrying import mixed

ROWS, NODES = 6, 5


class DenseConv(nn.Module):
    """Add up what the neighbours send; nodes outside the mask send nothing."""

    def __init__(self, size):
        super().__init__()
        self.own, self.other = nn.Linear(size, 4), nn.Linear(size, 4)

    def forward(self, h, adj, mask=None):
        sent = self.other(h) if mask is None else self.other(h) * mask[..., None]
        return (self.own(h) + adj.to(h.dtype) @ sent).tanh()


class DenseMean(nn.Module):
    """The mean over the nodes, weighted by the mask."""

    def forward(self, h, mask=None):
        if mask is None:
            return h.mean(1)
        mask = mask.to(h.dtype)[..., None]
        return (h * mask).sum(1) / mask.sum(1)


class DenseNet(nn.Module):
    """Three convolutions that are given the adjacency, a mean and a head."""

    layers = ("input:x", "input:adj", "conv1", "conv2", "conv3", "pool")

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = DenseConv(3), DenseConv(4), DenseConv(4)
        self.pool, self.head = DenseMean(), nn.Linear(4, 3)

    def forward(self, x, adj, mask=None):
        h = self.conv2(self.conv1(x, adj, mask), adj, mask)
        return self.head(self.pool(self.conv3(h, adj, mask), mask))

    def by_hand(self, plan, x, adj):
        """Mix the state at the plan's layer, and with it the adjacency for what reads it later."""
        if plan.layer.startswith("input"):
            x, adj = mixed(x, plan), mixed(adj, plan)
        h = x
        for name in ("conv1", "conv2", "conv3"):
            h = getattr(self, name)(h, adj)
            if plan.layer == name:
                h, adj = mixed(h, plan), mixed(adj, plan)
        h = self.pool(h)
        return self.head(mixed(h, plan) if plan.layer == "pool" else h)


def dense_example():
    """Draw features, ``(rows, nodes, 3)``, and a symmetric adjacency, ``(rows, nodes, nodes)``."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, NODES, 3, generator=generator, dtype=torch.float64)
    adj = torch.rand(ROWS, NODES, NODES, generator=generator, dtype=torch.float64) < 0.4
    return x, (adj | adj.mT).to(x.dtype)


def dense_net():
    torch.manual_seed(0)
    return DenseNet().double()
