"""Audio: a 1-D convolutional network classifies eight kinds of sound from the raw waveform.

    python examples/audio.py

The sounds are generated: a quarter of a second at 4 kHz, in white noise.

Measured (5 seeds, AMD EPYC with AVX2, PyTorch 2.14.1, 8 to 10 CPU seconds per training): mixing
increases the error, from 35.96 ± 2.75 % to 38.40 ± 1.76 % with input mixup, and to 38.24 ± 2.07 %
with manifold mixup, +2.28 [+0.57, +3.99] paired.
"""

from collections import OrderedDict

import torch
from torch import nn
from torch.utils.data import TensorDataset

from _table import compare
from _training import classification, fit, predict
from manifold_mixup import ManifoldMixup

LAYERS = ["input", "stage1", "stage2"]
TABLES = {
    "1-D CNN": {
        "no mixup": {"lr": 3e-3, "epochs": 20},
        "input mixup": {"lr": 3e-3, "epochs": 20, "layers": ["input"], "alpha": 0.2},
        "manifold mixup": {"lr": 3e-3, "epochs": 20, "layers": LAYERS, "alpha": 0.2},
    }
}


def load(seed, *, rows: int = 1000, scored: int = 1000, split: str = "test"):
    """Generate training sounds with the seed, and other sounds to score on."""
    return sounds(rows, seed), sounds(scored, {"validation": 10**6, "test": 2 * 10**6}[split])


def sounds(count, seed, *, rate=4000, length=1000):
    """Generate waveforms ``(count, 1, length)``, and their labels of eight kinds."""
    generator = torch.Generator().manual_seed(seed)
    pitch, turn, slow, noise = torch.rand(4, count, 1, generator=generator)
    time = torch.arange(length) / rate
    angle = 2 * torch.pi * ((120 + 360 * pitch) * time + turn)
    wobble = 2 * torch.pi * (10 + 10 * slow) * time
    kinds = [
        angle.sin(),  # a tone
        (angle * (1 + time)).sin(),  # rising
        (angle * (1 - time)).sin(),  # falling
        angle.sin() * (1 + wobble.sin()),  # tremolo
        (angle + 2 * wobble.sin()).sin(),  # vibrato
        angle.sin() + (1.5 * angle).sin(),  # a fifth
        angle.sin().sign(),  # square
        angle.sin().asin(),  # triangle
    ]
    y = torch.randint(len(kinds), (count,), generator=generator)
    x = torch.stack(kinds)[y, torch.arange(count)]
    x = x / x.square().mean(dim=1, keepdim=True).sqrt()
    x = x + (0.2 + 0.4 * noise) * torch.randn(x.shape, generator=generator)
    return TensorDataset(x[:, None], y)


def stage(channels, out, size, stride):
    """Return a convolution over time."""
    convolution = nn.Conv1d(channels, out, size, stride, size // 2)
    return nn.Sequential(convolution, nn.BatchNorm1d(out), nn.ReLU())


def train(data, scored, *, lr: float, epochs: int, layers: tuple = (), alpha: float = 1.0):
    """Train a network and return its scores."""
    parts = OrderedDict(stage1=stage(1, 16, 31, 4), stage2=stage(16, 32, 9, 4))
    parts |= OrderedDict(stage3=stage(32, 64, 9, 4), pool=nn.AdaptiveAvgPool1d(1))
    model = nn.Sequential(parts | OrderedDict(flat=nn.Flatten(), head=nn.Linear(64, 8)))
    criterion = nn.CrossEntropyLoss()
    if layers:
        criterion = ManifoldMixup(model, layers, alpha=alpha).wrap(criterion)
    fit(model, criterion, data, lr=lr, epochs=epochs, batch=50)
    return classification(*predict(model, scored))


if __name__ == "__main__":
    compare(__doc__, load, train, TABLES, quick={"rows": 150, "scored": 200, "epochs": 4})
