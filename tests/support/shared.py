"""Models in which a module runs several times, each with its mixed pass by hand."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from carrying import mixed

ROWS = 6


def _at(plan, name, *states):
    return [mixed(state, plan) if plan.layer == name else state for state in states]


class Looped(nn.Module):
    """One block that runs four times, as in ALBERT; checkpoints contain ``together`` runs."""

    layers = ("block@0", "block@1", "block@2", "block@3")

    def __init__(self, together=0, use_reentrant=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.block = nn.Linear(4, 8), nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)
        self.together, self.use_reentrant = together, use_reentrant

    @staticmethod
    def example():
        return (torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)),)

    def forward(self, x):
        x = self.stem(x)
        for _ in range(4 // (self.together or 4)):
            if self.together:
                x = checkpoint(self.several, x, use_reentrant=self.use_reentrant) * 1.5
            else:
                x = self.several(x) * 1.5
        return self.head(x)

    def several(self, x):
        for _ in range(self.together or 4):
            x = self.block(x.sin()).cos()
        return x

    def by_hand(self, plan, x):
        (x,) = _at(plan, "stem", self.stem(x))
        for run in range(4):
            (x,) = _at(plan, f"block@{run}", self.block(x.sin()))
            x = x.cos()
            if (run + 1) % (self.together or 4) == 0:
                x = x * 1.5
        return self.head(x)


class Siamese(nn.Module):
    """One encoder for two inputs, whose features are compared."""

    layers = ("encoder.0@*", "encoder.1@*", "encoder@*")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)

    @staticmethod
    def example():
        (x,) = Looped.example()
        return x, x.flip(1) * 2

    def forward(self, x, y):
        return self.head((self.encoder(x) - self.encoder(y)).abs())

    def by_hand(self, plan, *pair):
        for index, layer in enumerate(self.encoder):
            pair = _at(plan, f"encoder.{index}@*", *map(layer, pair))
        x, y = _at(plan, "encoder@*", *pair)
        return self.head((x - y).abs())


class Fuse(nn.Module):
    """Compares two features that it is given."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)

    def forward(self, a, b):
        return self.fc((a - b).abs())


class Fused(Siamese):
    """A siamese encoder whose last run alone is a cut point that carries the first."""

    layers = ("encoder.1@*", "encoder@*")

    def __init__(self):
        super().__init__()
        self.head = Fuse()

    def forward(self, x, y):
        return self.head(self.encoder(x), self.encoder(y))

    def by_hand(self, plan, *pair):
        for index, layer in enumerate(self.encoder):
            pair = _at(plan, f"encoder.{index}@*", *map(layer, pair))
        return self.head(*_at(plan, "encoder@*", *pair))


class Unrolled(nn.Module):
    """A recurrent cell in a loop over time, of which the last state counts."""

    layers = ("embed@*", "cell@0", "cell@2")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cell, self.head = nn.Linear(4, 5), nn.GRUCell(5, 6), nn.Linear(6, 3)

    @staticmethod
    def example():
        return (torch.randn(ROWS, 4, 4, generator=torch.Generator().manual_seed(1)),)

    def forward(self, x):
        inputs = [self.embed(step) for step in x.unbind(1)]
        state = x.new_zeros(len(x), 6)
        for step in inputs:
            state = self.cell(step, state)
        return self.head(state)

    def by_hand(self, plan, x):
        inputs = _at(plan, "embed@*", *(self.embed(step) for step in x.unbind(1)))
        state = x.new_zeros(len(x), 6)
        for number in range(4):
            state = self.cell(inputs[number], state)
            state, *inputs = _at(plan, f"cell@{number}", state, *inputs)
        return self.head(state)


SHARED = (Looped, Siamese, Fused, Unrolled)
