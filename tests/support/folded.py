"""A model whose state holds the batch in many ways, each with its mixed pass by hand."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

TIME = 4

# From (batch, time, 2, features) to a state, and back
WAYS = {
    "time first": (lambda h: h.transpose(0, 1), lambda h: h.transpose(0, 1)),
    "features first": (lambda h: h.movedim(0, -1), lambda h: h.movedim(-1, 0)),
    "folded": (lambda h: h.flatten(0, 1), lambda h: h.unflatten(0, (-1, TIME))),
    "folded twice": (lambda h: h.flatten(0, 2), lambda h: h.unflatten(0, (-1, TIME, 2))),
    "grouped": (
        lambda h: h.transpose(0, 1).flatten(0, 1),
        lambda h: h.unflatten(0, (TIME, -1)).transpose(0, 1),
    ),
    "time first, folded": (
        lambda h: h.transpose(0, 1).flatten(1, 2),
        lambda h: h.unflatten(1, (-1, 2)).transpose(0, 1),
    ),
    "time first, grouped": (
        lambda h: h.permute(1, 2, 0, 3).flatten(1, 2),
        lambda h: h.unflatten(1, (2, -1)).permute(2, 0, 1, 3),
    ),
}


class Scale(nn.Module):
    """Scales elementwise, so that the order of dimensions does not matter."""

    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, h):
        return (h * self.weight).tanh()


class Folded(nn.Module):
    """Two layers on a state that is folded in some way; by hand, it is unfolded and mixed."""

    def __init__(self, way, *, checkpointed=False):
        super().__init__()
        torch.manual_seed(0)
        self.fold, self.unfold = WAYS[way]
        self.checkpointed = checkpointed
        self.stem, self.head = nn.Linear(5, 6), nn.Linear(6, 3)
        shape = (3, 1) if way == "features first" else (3,)
        self.a, self.b = Scale(shape), Scale(shape)
        self.double()

    def forward(self, x):
        h = self.fold(self.stem(x).unflatten(2, (2, 3)))
        h = checkpoint(self.a, h, use_reentrant=False) if self.checkpointed else self.a(h)
        return self.pooled(self.b(h))

    def pooled(self, h):
        h = self.unfold(h)
        weights = torch.arange(1.0, 1 + TIME * 2).view(TIME, 2, 1).to(h.dtype)
        return self.head((h * weights).sum((1, 2)).repeat(1, 2))

    def by_hand(self, x, plan):
        h = self.unfold(self.a(self.fold(self.stem(x).unflatten(2, (2, 3)))))
        lam = plan.lam.to(h.dtype)
        lam = lam.view(-1, *[1] * (h.ndim - 1)) if lam.ndim else lam
        return self.pooled(self.b(self.fold(lam * h + (1 - lam) * h[plan.perm])))
