"""Models whose states have positions, with hand-split forms, and the formula of mixing by them."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from manifold_mixup import MixPlan

BATCH = 6
CLASSES = 3
TARGET = torch.arange(BATCH) % CLASSES


class Maps(nn.Module):
    """Convolutions over one, two or three axes, whose sides halve; optionally checkpointed."""

    def __init__(self, axes=2, use_reentrant=None):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.axes, self.use_reentrant = axes, use_reentrant
        self.conv1, self.conv2 = conv(2, 4, 3, padding=1), conv(4, 4, 3, padding=1, stride=2)
        self.conv3, self.head = conv(4, 5, 3, padding=1), nn.Linear(5, CLASSES)

    def forward(self, x):
        h = self.conv1(x)
        if self.use_reentrant is None:
            h = self.conv2(torch.relu(h))
        else:
            h = checkpoint(self.conv2, torch.relu(h), use_reentrant=self.use_reentrant)
        return self._head(self.conv3(torch.relu(h)))

    def _head(self, h):
        return self.head(torch.relu(h).flatten(2).mean(2))

    def stages(self):
        return [
            ("input", lambda x: x),
            ("conv1", self.conv1),
            ("conv2", lambda h: self.conv2(torch.relu(h))),
            ("conv3", lambda h: self.conv3(torch.relu(h))),
            ("", self._head),
        ]

    def example(self):
        return torch.randn(BATCH, 2, *(9, 8, 6)[: self.axes])

    def dims(self, layer):
        return tuple(range(2, 2 + self.axes))


class Tokens(nn.Module):
    """A vision transformer: patches, a class token before them, blocks with attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))
        layer = nn.TransformerEncoderLayer
        self.block1, self.block2 = (layer(8, 2, 16, 0.0, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, CLASSES)

    def _tokens(self, x):
        patches = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat([self.cls.expand(len(x), -1, -1), patches], 1)

    def forward(self, x):
        return self.head(self.block2(self.block1(self._tokens(x)))[:, 0])

    def stages(self):
        return [
            ("input", lambda x: x),
            ("block1", lambda x: self.block1(self._tokens(x))),
            ("block2", self.block2),
            ("", lambda h: self.head(h[:, 0])),
        ]

    def example(self):
        return torch.randn(BATCH, 3, 16, 12)

    def dims(self, layer):
        return (2, 3) if layer == "input" else (1,)

    GRID, FIRST = (4, 3), 1


class Last(nn.Module):
    """Maps with the channels last, as in Swin."""

    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(2, 6), nn.LayerNorm(6), nn.Linear(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        h = self.fc2(torch.tanh(self.norm(self.fc1(x))))
        return self.head(h.mean((1, 2)))

    def stages(self):
        return [
            ("input", lambda x: x),
            ("fc1", self.fc1),
            ("fc2", lambda h: self.fc2(torch.tanh(self.norm(h)))),
            ("", lambda h: self.head(h.mean((1, 2)))),
        ]

    def example(self):
        return torch.randn(BATCH, 5, 4, 2)

    def dims(self, layer):
        return (1, 2)


class Segments(nn.Module):
    """A network whose outputs have the positions of its input, or of half its sides."""

    def __init__(self, axes=2, stride=1):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d)[axes - 1]
        self.stem, self.head = conv(2, 4, 3, stride, padding=1), conv(4, CLASSES, 1)
        self.up = nn.Upsample(scale_factor=stride)

    def forward(self, x):
        return self.up(self.head(torch.relu(self.stem(x))))


class UNet(nn.Module):
    """A U-Net: at its bottom the skipped map of twice the sides is mixed too."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, padding=1)
        self.up, self.join = nn.ConvTranspose2d(6, 4, 2, 2), nn.Conv2d(8, CLASSES, 3, padding=1)
        self.merge = Merge()

    def forward(self, x):
        skip = self.down1(x)
        low = self.down2(torch.relu(skip))
        return self.join(self.merge(self.up(torch.relu(low)), skip))

    def example(self):
        return torch.randn(BATCH, 2, 8, 12)


class Merge(nn.Module):
    def forward(self, up, skip):
        return torch.cat([up, torch.relu(skip)], 1)


MODELS = {
    "maps": Maps,
    "time": lambda: Maps(1),
    "volumes": lambda: Maps(3),
    "checkpoint": lambda: Maps(use_reentrant=False),
    "reentrant": lambda: Maps(use_reentrant=True),
    "tokens": Tokens,
    "channels last": Last,
}


def build(name, seed=0):
    torch.manual_seed(seed)
    return MODELS[name]()


def example(model, seed=1):
    torch.manual_seed(seed)
    return model.example()


PLACES = [(name, layer) for name in MODELS for layer, _ in build(name).stages() if layer]


def by_positions(x, own, perm, dims):
    """Return ``own * x + (1 - own) * x[perm]``, for weights of the positions of a state.

    ``own`` is (1 or batch, *sides); sides that are coarser are repeated.
    """
    shape = [len(own)] + [1] * (x.ndim - 1)
    own = own.to(x.dtype)
    for axis, dim in enumerate(dims):
        own = own.repeat_interleave(x.shape[dim] // own.shape[1 + axis], 1 + axis)
        shape[dim] = x.shape[dim]
    own = own.view(shape)
    return own * x + (1 - own) * x[perm]


def mixed_tokens(h, own, perm, label, model):
    """Mix patches as the grid they were made of, and the class token by the share of the label."""
    first, (rows, columns) = model.FIRST, model.GRID
    patches = h[:, first:].unflatten(1, (rows, columns))
    patches = by_positions(patches, own, perm, (1, 2)).flatten(1, 2)
    share = label.view(-1, 1, 1)
    token = share * h[:, :first] + (1 - share) * h[:, :first][perm]
    return torch.cat([token, patches], 1)


def hand_split(model, x, plan):
    """Run the model with the plain formula at the plan's layer; the plan has its weights."""
    h = x
    for layer, stage in model.stages():
        h = stage(h)
        if layer == plan.layer:
            if isinstance(model, Tokens) and layer != "input":
                h = mixed_tokens(h, plan.weight, plan.perm, plan.target_lam, model)
            else:
                h = by_positions(h, plan.weight, plan.perm, model.dims(layer))
    return h


def weights(sides, kind, seed=0, batch=BATCH):
    """Draw weights: selected or soft, for all rows or for each."""
    generator = torch.Generator().manual_seed(seed)
    rows = batch if "each" in kind else 1
    drawn = torch.rand(rows, *sides, generator=generator)
    return drawn > 0.5 if "hard" in kind else drawn


def plan_by(layer, own, seed=0, *, repeats=False, batch=BATCH):
    generator = torch.Generator().manual_seed(seed)
    perm = torch.randperm(batch, generator=generator)
    if repeats:
        perm[1] = perm[0]
    return MixPlan(layer, 0.5, perm, weight=own)


def labels(target, plan, classes=CLASSES):
    """Return one-hot labels mixed by the mean weight of the positions."""
    own = nn.functional.one_hot(target, classes).float()
    share = plan.weight.float().flatten(1).mean(1).view(-1, 1)
    return share * own + (1 - share) * own[plan.perm]


class TimeFirst(nn.Module):
    """The batch is dimension 1 of its states, so that a row of them is no example."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(2, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.first(x)))

    def example(self):
        return torch.randn(5, BATCH, 2)
