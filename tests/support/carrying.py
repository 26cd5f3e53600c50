"""Models whose state crosses a depth in several tensors, each with its mixed pass by hand."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

ROWS = 6


def mixed(state, plan):
    """The plain formula."""
    lam = plan.lam.to(state.dtype)
    lam = lam.view(-1, *[1] * (state.ndim - 1)) if lam.ndim else lam
    return lam * state + (1 - lam) * state[plan.perm]


class Up(nn.Module):
    """Upsample, and join a skip connection."""

    def __init__(self, below, skip, out):
        super().__init__()
        self.conv = nn.Conv2d(below + skip, out, 3, padding=1)

    def forward(self, x, skip):
        return self.conv(torch.cat([F.interpolate(x, scale_factor=2.0), skip], 1)).tanh()


class UNet(nn.Module):
    """Two levels; the decoder's modules are handed the skips, one by position, one by name."""

    def __init__(self):
        super().__init__()
        self.enc1, self.enc2 = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 4, 2, stride=2)
        self.bottom = nn.Conv2d(4, 5, 2, stride=2)
        self.up2, self.up1 = Up(5, 4, 4), Up(4, 3, 3)
        self.head = nn.Conv2d(3, 2, 1)
        self.checkpointed = None

    def forward(self, x):
        a = self.enc1(x)
        b = self.enc2(a.tanh())
        c = self.run(self.bottom, b)
        return self.head(self.up1(self.run(self.up2, c, b), skip=a))

    def run(self, module, *args):
        if self.checkpointed is None:
            return module(*args)
        return checkpoint(module, *args, use_reentrant=self.checkpointed)

    def by_hand(self, plan, x):
        at = lambda name, *states: [  # noqa: E731
            mixed(state, plan) if plan.layer == name else state for state in states
        ]
        (x,) = at("input", x)
        (a,) = at("enc1", self.enc1(x))
        b, a2 = self.enc2(a.tanh()), a
        b, a2 = at("enc2", b, a2)
        c = self.bottom(b)
        c, b, a2 = at("bottom", c, b, a2)
        d, a2 = at("up2", self.up2(c, b), a2)
        return self.head(self.up1(d, a2))

    @staticmethod
    def example():
        return (torch.randn(ROWS, 2, 8, 8),)


class Modulated(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.scale = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, h, *, condition):
        return h + self.body(h).tanh() * self.scale(condition)


class Conditional(nn.Module):
    """A class and a time step condition every block, as in DiT."""

    layers = ("input:x", "stem", "blocks.0", "blocks.1")

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.step, self.kind = nn.Linear(4, 6), nn.Embedding(5, 6)
        self.blocks = nn.ModuleList([Modulated(), Modulated(), Modulated()])

    def wave(self, step):
        angle = step[:, None].to(self.step.weight.dtype) * torch.tensor([1.0, 0.1])
        return torch.cat([angle.sin(), angle.cos()], 1)

    def forward(self, x, step, kind):
        condition = self.step(self.wave(step)) + self.kind(kind)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, condition=condition)
        return self.head(h)

    def by_hand(self, plan, x, step, kind):
        wave, kinds = self.wave(step), self.kind(kind)
        if plan.layer == "input:x":
            x, wave, kinds = (mixed(state, plan) for state in (x, wave, kinds))
        h, condition = self.stem(x), self.step(wave) + kinds
        for name, block in (
            ("stem", None),
            *((f"blocks.{i}", b) for i, b in enumerate(self.blocks)),
        ):
            h = h if block is None else block(h, condition=condition)
            if plan.layer == name:
                h, condition = mixed(h, plan), mixed(condition, plan)
        return self.head(h)

    @staticmethod
    def example():
        return torch.randn(ROWS, 4), torch.arange(ROWS) * 3, torch.arange(ROWS) % 5


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, h, memory):
        return h + self.attention(h, memory, memory, need_weights=False)[0]


class EncoderDecoder(nn.Module):
    """Token ids on both sides by one embedding, which so runs before the encoder and after it."""

    layers = ("embed_source", "encoder", "decoder.0")

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.embed_source = nn.Linear(6, 6)
        self.encoder = nn.Linear(6, 6)
        self.decoder = nn.ModuleList([Attend(), Attend()])
        self.head = nn.Linear(6, 3)

    def forward(self, source, target):
        memory = self.encoder(self.embed_source(self.embedding(source)).tanh())
        h = self.embedding(target)
        for block in self.decoder:
            h = block(h, memory)
        return self.head(h.mean(1))

    def by_hand(self, plan, source, target):
        h, memory = self.embedding(target), self.embed_source(self.embedding(source))
        if plan.layer == "embed_source":
            h, memory = mixed(h, plan), mixed(memory, plan)
        memory = self.encoder(memory.tanh())
        if plan.layer == "encoder":
            h, memory = mixed(h, plan), mixed(memory, plan)
        h = self.decoder[0](h, memory)
        if plan.layer == "decoder.0":
            h, memory = mixed(h, plan), mixed(memory, plan)
        return self.head(self.decoder[1](h, memory).mean(1))

    @staticmethod
    def example():
        tokens = torch.arange(ROWS * 4).view(ROWS, 4)
        return tokens % 7, tokens % 9


class Fusion(nn.Module):
    """Two encoders, and a module that joins their states."""

    layers = ("input:image", "image", "text")

    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(4, 6), nn.Linear(3, 6)
        self.join = nn.Bilinear(6, 6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, image, text):
        return self.head(self.join(self.image(image), self.text(text)).tanh())

    def by_hand(self, plan, image, text):
        at = lambda name, *states: [  # noqa: E731
            mixed(state, plan) if plan.layer == name else state for state in states
        ]
        image, text = at("input:image", image, text)
        image, text = at("image", self.image(image), text)
        image, text = at("text", image, self.text(text))
        return self.head(self.join(image, text).tanh())

    @staticmethod
    def example():
        return torch.randn(ROWS, 4), torch.randn(ROWS, 3)


UNet.layers = ("input", "enc1", "enc2", "bottom", "up2")


class Forecaster(nn.Module):
    """Scales a series, and returns the scale with the states, inside a body that does too."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        spread, mean = torch.std_mean(x, 1, keepdim=True)
        h = (x - mean) / spread
        for block in self.blocks:
            h = block(h).tanh()
        return {"state": h, "scale": (spread, mean)}


class Normalised(nn.Module):
    """Undoes in its own code how its body scaled a series (reversible instance normalisation)."""

    layers = ("input", "body.blocks.0", "body.blocks.1")

    def __init__(self):
        super().__init__()
        self.body, self.head = Forecaster(), nn.Linear(8, 3)

    def forward(self, x):
        found = self.body(x)
        spread, mean = found["scale"]
        return self.head(found["state"]) * spread + mean

    def by_hand(self, plan, x):
        x = mixed(x, plan) if plan.layer == "input" else x
        spread, mean = torch.std_mean(x, 1, keepdim=True)
        h = (x - mean) / spread
        for number, block in enumerate(self.body.blocks):
            h = block(h)
            if plan.layer == f"body.blocks.{number}":
                h, spread, mean = (mixed(state, plan) for state in (h, spread, mean))
            h = h.tanh()
        return self.head(h) * spread + mean

    @staticmethod
    def example():
        return (3 + 2 * torch.randn(ROWS, 8),)


MODELS = {
    model.__name__: model for model in (UNet, Conditional, EncoderDecoder, Fusion, Normalised)
}
CASES = [(name, layer) for name, model in MODELS.items() for layer in model.layers]


def build(name):
    torch.manual_seed(0)
    return MODELS[name]()
