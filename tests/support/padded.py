"""A padded batch, its mask in every form, and encoders that read it."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from manifold_mixup import MixPlan

BATCH, TIME, WIDTH, CLASSES = 6, 7, 16, 3
LENGTHS = torch.tensor([7, 5, 2, 6, 3, 4])
VALID = torch.arange(TIME) < LENGTHS[:, None]  # (batch, time)
IDS = torch.randint(1, 30, (BATCH, TIME), generator=torch.Generator().manual_seed(0))
PERM = torch.tensor([2, 0, 1, 5, 3, 4])
TARGET = torch.arange(BATCH) % CLASSES
LEAST = torch.finfo(torch.float32).min

FORMS = {
    "bool": VALID,
    "long": VALID.long(),
    "pad": ~VALID,
    "weights": VALID.float(),
    "additive": torch.where(VALID, 0.0, -math.inf),
    "bool 4-D": VALID[:, None, None],
    "bool square": VALID[:, None, None].expand(BATCH, 1, TIME, TIME),
    "additive 4-D": torch.where(VALID, 0.0, LEAST)[:, None, None],
    "causal": VALID[:, None, None] & torch.ones(TIME, TIME).tril().bool(),
}


# Our own encoder, which reads masks of every form


class Attention(nn.Module):
    """Reads a mask like PyTorch: booleans mark visible positions, numbers are added."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(h).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        mask = mask[:, None, None] if mask.ndim == 2 else mask
        return self.out(F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, checkpointed: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
        self.checkpointed = checkpointed

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        if self.checkpointed:
            h = h + checkpoint(self.attention, self.norm1(h), mask, use_reentrant=False)
        else:
            h = h + self.attention(self.norm1(h), mask)
        return h + self.mlp(self.norm2(h))


class First(nn.Module):
    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return h[:, 0]


class Mean(nn.Module):
    """Takes a mask of weights, or of booleans, and only multiplies by it."""

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        weights = mask.flatten(1, -2)[:, -TIME:] if mask.ndim > 2 else mask
        return (h * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


class Encoder(nn.Module):
    def __init__(self, pool: str = "first", checkpointed: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, WIDTH)
        self.places = nn.Parameter(torch.randn(TIME, WIDTH))
        self.blocks = nn.ModuleList(Block(checkpointed) for _ in range(2))
        self.pool = First() if pool == "first" else Mean()
        self.head = nn.Linear(WIDTH, CLASSES)

    def read(self, mask: Tensor) -> Tensor:
        return mask

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.embed(ids) + self.places
        for block in self.blocks:
            h = block(h, self.read(mask))
        return self.head(self.pool(h, mask))


class Integers(Encoder):
    """Takes integers or weights, and passes booleans to its blocks."""

    def read(self, mask: Tensor) -> Tensor:
        return mask > 0


class PadEncoder(nn.Module):
    """PyTorch's own encoder, whose mask marks padding."""

    def __init__(self, pool: str = "first") -> None:
        super().__init__()
        self.embed = nn.Embedding(30, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 24, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, ids: Tensor, src_key_padding_mask: Tensor) -> Tensor:
        h = self.encoder(self.embed(ids), src_key_padding_mask=src_key_padding_mask)
        return self.head(h[:, 0])


# The same network by hand: attention multiplies by the weights


class Weighted(nn.Module):
    """Runs an `Encoder` from a mixed state on, with weights and plain softmaxes."""

    def __init__(self, model: Encoder) -> None:
        super().__init__()
        self.model = model

    def states(self, layer: str) -> Tensor:
        h = self.model.embed(IDS)
        if layer == "embed":
            return h
        h = h + self.model.places
        for place in range(int(layer[-1]) + 1):
            h = self.block(self.model.blocks[place], h, VALID.float())
        return h

    def block(self, block: Block, h: Tensor, weights: Tensor) -> Tensor:
        normed = block.norm1(h)
        parts = block.attention.qkv(normed).unflatten(-1, (3, 2, -1))
        q, k, v = (parts[:, :, part].transpose(1, 2) for part in range(3))
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).exp() * weights[:, None, None]
        attended = scores / scores.sum(-1, keepdim=True) @ v
        h = h + block.attention.out(attended.transpose(1, 2).flatten(2))
        return h + block.mlp(block.norm2(h))

    def forward(self, plan: MixPlan) -> Tensor:
        h, lam = self.states(plan.layer), plan.lam.view(-1, 1) if plan.lam.ndim else plan.lam
        own, other = lam * VALID, (1 - lam) * VALID[plan.perm]
        weights = own + other
        mean = (own[..., None] * h + other[..., None] * h[plan.perm]) / weights[..., None].clamp(
            min=1e-30
        )
        h = torch.where(weights[..., None] > 0, mean, h)
        blocks = list(self.model.blocks)[0 if plan.layer == "embed" else int(plan.layer[-1]) + 1 :]
        if plan.layer == "embed":
            h = h + self.model.places
        for block in blocks:
            h = self.block(block, h, weights)
        if isinstance(self.model.pool, First):
            return self.model.head(h[:, 0])
        return self.model.head((h * weights[..., None]).sum(1) / weights.sum(1, keepdim=True))


OWN = ["embed", "blocks.0", "blocks.1"]


def built(kind: type[nn.Module], *args: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args)


def own(form: str, pool: str = "first", checkpointed: bool = False) -> tuple[nn.Module, dict]:
    """Return a model that reads a mask of this form, and a batch for it."""
    if form == "pad":
        return built(PadEncoder), {"ids": IDS, "src_key_padding_mask": FORMS[form]}
    kind = Integers if form in ("long", "weights") else Encoder
    return built(kind, pool, checkpointed), {"ids": IDS, "mask": FORMS[form]}
