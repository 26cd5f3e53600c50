"""Models of every kind, each with a hand-split form of its forward pass.

`Case.stages` lists (layer name, function) pairs whose composition is the model's forward pass. An
oracle can stop after any of them, mix with the plain formula, and continue.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from manifold_mixup import MixPlan

BATCH = 6
CLASSES = 3
TARGET = torch.arange(BATCH) % CLASSES


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.act = nn.Tanh()  # a module that runs twice

    def forward(self, x):
        return self.fc3(self.act(self.fc2(self.act(self.fc1(x)))))

    def stages(self):
        return [
            ("fc1", self.fc1),
            ("fc2", lambda h: self.fc2(self.act(h))),
            ("", lambda h: self.fc3(self.act(h))),
        ]

    @staticmethod
    def example():
        return torch.randn(BATCH, 5)


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        x += 1
        return self.head(x.mean((2, 3)))

    def stages(self):
        return [
            ("conv1", self.conv1),
            ("bn1", self.bn1),
            ("conv2", lambda h: self.conv2(torch.relu(h))),
            ("bn2", self.bn2),
            ("", lambda h: self.head((h + 1).mean((2, 3)))),
        ]

    @staticmethod
    def example():
        return torch.randn(BATCH, 2, 5, 5)


class Block(nn.Module):
    def __init__(self, norm=nn.BatchNorm1d):
        super().__init__()
        self.bn, self.fc = norm(8), nn.Linear(8, 8)

    def forward(self, h):
        return h + self.fc(torch.relu(self.bn(h)))


class Residual(nn.Module):
    """Residual stages, optionally with activation checkpointing."""

    def __init__(self, use_reentrant: bool | None = None, norm=nn.BatchNorm1d):
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.layer1, self.layer2 = nn.Sequential(Block(norm), Block(norm)), Block(norm)
        self.head = nn.Linear(8, CLASSES)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        h = self.stem(x)
        for stage in (self.layer1, self.layer2):
            if self.use_reentrant is None:
                h = stage(h)
            else:
                h = checkpoint(stage, h, use_reentrant=self.use_reentrant)
        return self.head(h)

    def stages(self):
        return [
            ("stem", self.stem),
            ("layer1.0", self.layer1[0]),
            ("layer1", self.layer1[1]),
            ("layer2", self.layer2),
            ("", self.head),
        ]

    @staticmethod
    def example():
        return torch.randn(BATCH, 5)


@dataclass
class Hidden:
    state: Tensor
    note: str = "kept"


class TupleStage(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x):
        return self.left(x), {"right": self.right(x), "size": x.shape[-1]}


class DataclassStage(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, pair):
        left, rest = pair
        return Hidden(self.fc(torch.cat([left, rest["right"]], 1)))


class Structured(nn.Module):
    """Layers that return tuples, dicts and dataclasses; outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.first, self.second = TupleStage(), DataclassStage()
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        hidden = self.second(self.first(x))
        return {"logits": self.head(torch.tanh(hidden.state)), "norm": hidden.state.square().sum(1)}

    def stages(self):
        return [
            ("first", lambda x: [self.first.left(x), self.first.right(x)]),
            ("second", lambda h: self.second.fc(torch.cat(h, 1))),
            ("", lambda h: {"logits": self.head(torch.tanh(h)), "norm": h.square().sum(1)}),
        ]

    @staticmethod
    def example():
        return torch.randn(BATCH, 5)


class Recurrent(nn.Module):
    """An LSTM with as many layers as the batch has rows; its ``h_n`` is not used."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 5, num_layers=BATCH, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x):
        states, _ = self.lstm(x)
        return self.head(states[:, -1])

    def stages(self):
        return [
            ("lstm", lambda x: self.lstm(x)[0]),
            ("", lambda h: self.head(h[:, -1])),
        ]

    @staticmethod
    def example():
        return torch.randn(BATCH, 7, 4)


class Text(nn.Module):
    """Token ids, an embedding and transformer blocks."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(2)
        )
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h)
        return self.head(h.mean(1))

    def stages(self):
        return [
            ("embed", self.embed),
            ("blocks.0", self.blocks[0]),
            ("blocks.1", self.blocks[1]),
            ("", lambda h: self.head(h.mean(1))),
        ]

    @staticmethod
    def example():
        return torch.randint(11, (BATCH, 6))


ZOO: dict[str, Callable[[], Any]] = {
    "mlp": Mlp,
    "conv": ConvNet,
    "residual": Residual,
    "checkpoint": lambda: Residual(use_reentrant=False),
    "reentrant": lambda: Residual(use_reentrant=True),
    "structured": Structured,
    "lstm": Recurrent,
    "text": Text,
}


def build(name: str, seed: int = 0) -> Any:
    """Return a model of the zoo, with the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ZOO[name]()


def example(model: Any, seed: int = 1) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model.example()


def layers_of(name: str) -> list[str]:
    """Return the layers of a model that can be mixed: its input if floating, and its stages."""
    model = build(name)
    hidden = [layer for layer, _ in model.stages() if layer]
    return ["input", *hidden] if example(model).is_floating_point() else hidden


PLACES = [(name, layer) for name in ZOO for layer in layers_of(name)]


def plain_mix(h: Any, plan: MixPlan) -> Any:
    """Mix with the formula of the paper."""
    if isinstance(h, list):
        return [plain_mix(part, plan) for part in h]
    lam = plan.lam.view(-1, *(1 for _ in h.shape[1:])) if plan.lam.ndim else plan.lam
    return lam * h + (1 - lam) * h[plan.perm]


def hand_split(model: Any, x: Tensor, plan: MixPlan) -> Any:
    """Return the correct result of a mixed forward pass: prefix, mix, suffix."""
    h = plain_mix(x, plan) if plan.layer == "input" else x
    for layer, stage in model.stages():
        h = stage(h)
        if layer == plan.layer:
            h = plain_mix(h, plan)
    return h


def logits(output: Any) -> Tensor:
    return output["logits"] if isinstance(output, dict) else output


def plan_at(
    layer: str, seed: int = 0, batch: int = BATCH, per_sample: bool | str = False
) -> MixPlan:
    """Return a plan with one λ, one a row, or also with repeated partners and shares of labels."""
    generator = torch.Generator().manual_seed(seed)
    lam = torch.rand(batch if per_sample else (), generator=generator)
    perm = torch.randperm(batch, generator=generator)
    if per_sample != "repeats":
        return MixPlan(layer, lam, perm)
    perm[1] = perm[0]
    return MixPlan(layer, lam, perm, label=torch.rand(batch, generator=generator))


def plain_labels(target: Tensor, classes: int, plan: MixPlan) -> Tensor:
    """Mix one-hot labels with the formula of the paper, each by the share of its target."""
    share = plan.lam if plan.label is None else plan.label
    own = nn.functional.one_hot(target, classes).float()
    share = share.view(-1, 1) if share.ndim else share
    return share * own + (1 - share) * own[plan.perm]


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


# Of no account of its own


class Skipping(nn.Module):
    """LayerDrop: a layer runs only in some passes, another in none."""

    def __init__(self):
        super().__init__()
        self.stem, self.dropped, self.never = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)
        self.drop = False

    def forward(self, x):
        h = self.stem(x)
        return self.head(h if self.drop else self.dropped(h))
