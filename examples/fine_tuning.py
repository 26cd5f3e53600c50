"""Fine-tuning: a pretrained timm model learns Fashion-MNIST from 500 images.

    python examples/fine_tuning.py                      # downloads timm's weights and Fashion-MNIST
    python examples/fine_tuning.py --data FOLDER --weights FILE
    python examples/fine_tuning.py --weights none       # from scratch

Measured (5 seeds, AMD EPYC with AVX2, PyTorch 2.14.1, 10 to 11 CPU seconds per training) with the
weights of `_pretrain.py` instead of timm's: mixing does not help in such a short training. The
error is 22.31 ± 0.88 % without it, 23.01 ± 0.79 % with input mixup, 22.17 ± 0.66 % with manifold
mixup, -0.14 [-0.61, +0.33] paired.
"""

import timm
import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.datasets import FashionMNIST

from _table import compare
from _training import classification, fit, predict
from manifold_mixup import ManifoldMixup

LAYERS = ["input", "layer1", "layer2"]
TABLES = {
    "test_resnet": {
        "no mixup": {"lr": 3e-3, "epochs": 10},
        "input mixup": {"lr": 3e-3, "epochs": 10, "layers": ["input"], "alpha": 0.2},
        "manifold mixup": {"lr": 3e-3, "epochs": 10, "layers": LAYERS, "alpha": 0.2},
    }
}


def load(seed, *, data: str = "data", rows: int = 500, scored: int = 3000, split: str = "test"):
    """Draw training images with the seed, and take other images to score on."""
    x, y = images(data, train=True)
    generator = torch.Generator().manual_seed(seed)
    chosen = scored + torch.randperm(len(y) - scored, generator=generator)[:rows]
    others = (x, y) if split == "validation" else images(data, train=False)
    return TensorDataset(x[chosen], y[chosen]), TensorDataset(*(part[:scored] for part in others))


def images(root, *, train):
    """Return images ``(n, 1, 32, 32)``, standardised like ImageNet's, and labels."""
    data = FashionMNIST(root, train=train, download=True)
    x = nn.functional.pad(data.data[:, None] / 255, [2, 2, 2, 2])
    return (x - 0.45) / 0.225, data.targets


def create(name, weights):
    """Return a timm model for ten classes, with timm's weights, those of a file, or fresh ones."""
    settings = {"in_chans": 1, "num_classes": 10, "pretrained": weights != "none"}
    if weights not in ("timm", "none"):
        settings["pretrained_cfg_overlay"] = {"file": weights}
    return timm.create_model(name, **settings)


def train(
    data,
    scored,
    *,
    lr: float,
    epochs: int,
    layers: tuple = (),
    alpha: float = 1.0,
    model: str = "test_resnet",
    weights: str = "timm",
):
    """Fine-tune a model and return its scores."""
    network = create(model, weights)
    criterion = nn.CrossEntropyLoss()
    if layers:
        criterion = ManifoldMixup(network, layers, alpha=alpha).wrap(criterion)
    fit(network, criterion, data, lr=lr, epochs=epochs, batch=50)
    return classification(*predict(network, scored))


if __name__ == "__main__":
    quick = {"rows": 100, "scored": 100, "epochs": 4, "weights": "none"}
    compare(__doc__, load, train, TABLES, quick=quick)
