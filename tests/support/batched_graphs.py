"""A network on a batch of graphs in plain torch, with its mixed pass by hand, and such batches."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carrying import mixed

WIDTH, CLASSES = 6, 3


@dataclass
class Batch:
    """Graphs as one: features of nodes and edges, the ends of the edges, the graph of each node."""

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    edge_attr: Tensor


def batch_of(sizes, *, seed=0, dtype=torch.float64):
    """Connect a number of nodes per graph to rings with chords, with random features."""
    generator = torch.Generator().manual_seed(seed)
    first, edges = 0, []
    for size in sizes:
        ring = torch.arange(size)
        ends = torch.stack([ring, (ring + 1) % size])
        edges.append(first + torch.cat([ends, ends.flip(0), ends[:, :1]], 1))
        first += size
    edge_index = torch.cat(edges, 1)
    draw = lambda rows: torch.randn(rows, 4, generator=generator, dtype=dtype)  # noqa: E731
    numbers = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return Batch(draw(first), edge_index, numbers, draw(edge_index.shape[1]))


class Conv(nn.Module):
    """Add up messages of the neighbours; each is a function of the edge and of its source."""

    def __init__(self, size):
        super().__init__()
        self.own, self.other = nn.Linear(size, WIDTH), nn.Linear(size, WIDTH)
        self.edge = nn.Linear(4, WIDTH)

    def forward(self, x, edge_index, edge_attr=None):
        source, target = edge_index
        messages = self.other(x)[source]
        if edge_attr is not None:
            messages = messages * self.edge(edge_attr).sigmoid()
        return self.own(x).index_add(0, target, messages).tanh()


class Mean(nn.Module):
    """The mean over the nodes of each graph."""

    def forward(self, x, batch, size=None):
        size = int(batch.max()) + 1 if size is None else size
        total = x.new_zeros(size, x.shape[1]).index_add_(0, batch, x)
        return total / x.new_zeros(size).index_add_(0, batch, torch.ones_like(x[:, 0]))[:, None]


class GraphNet(nn.Module):
    """Two convolutions with a norm over nodes in between, a pooling, and a head."""

    layers = ("pool", "head.0", "head.1")

    def __init__(self, pool=None):
        super().__init__()
        self.conv1, self.norm, self.conv2 = Conv(4), nn.BatchNorm1d(WIDTH), Conv(WIDTH)
        self.pool = pool or Mean()
        self.head = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, CLASSES))

    def nodes(self, x, edge_index, edge_attr=None):
        return self.conv2(self.norm(self.conv1(x, edge_index, edge_attr)), edge_index, edge_attr)

    def forward(self, x, edge_index, batch, edge_attr=None, batch_size=None):
        return self.head(self.pool(self.nodes(x, edge_index, edge_attr), batch, batch_size))

    def by_hand(self, plan, data, edge_attr=None):
        at = lambda name, h: mixed(h, plan) if plan.layer == name else h  # noqa: E731
        h = self.nodes(data.x, data.edge_index, edge_attr)
        rows = [h[data.batch == graph].mean(0) for graph in range(int(data.batch[-1]) + 1)]
        h = at("pool", torch.stack(rows))
        h = at("head.1", self.head[1](at("head.0", self.head[0](h))))
        return self.head[2](h)


class OfOneArgument(GraphNet):
    """The same, given one object."""

    def forward(self, data):
        get = data.__getitem__ if isinstance(data, dict) else lambda name: getattr(data, name)
        return super().forward(get("x"), get("edge_index"), get("batch"), get("edge_attr"))


def build(kind=GraphNet, **given):
    torch.manual_seed(0)
    return kind(**given).double()
