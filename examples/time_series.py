"""Time series: two LSTMs classify the signals of MNIST-1D.

    python examples/time_series.py

MNIST-1D (Greydanus and Kobak, 2020) is generated locally. The input, the states between the two
LSTMs, and the states before the head are mixed. An LSTM returns a tuple; parts that nothing reads,
here the last states, are not mixed. The batch must be dimension 0 (``batch_first=True``). The LSTMs
must be two modules, since the states inside an ``nn.LSTM(num_layers=2)`` cannot be mixed.

Measured (5 seeds, AMD EPYC with AVX2, PyTorch 2.14.1, 19 CPU seconds per training): the error falls
from 5.79 ± 0.47 % to 5.35 ± 0.54 % with input mixup, and to 4.45 ± 0.31 % with manifold mixup,
-1.34 [-1.96, -0.72] paired.
"""

import torch
from mnist1d.data import get_dataset_args, make_dataset
from torch import nn
from torch.utils.data import TensorDataset

from _table import compare
from _training import classification, fit, predict
from manifold_mixup import ManifoldMixup

LAYERS = ["input", "first", "mean"]
TABLES = {
    "LSTM": {
        "no mixup": {"lr": 3e-2, "epochs": 30},
        "input mixup": {"lr": 3e-2, "epochs": 30, "layers": ["input"], "alpha": 0.2},
        "manifold mixup": {"lr": 3e-2, "epochs": 30, "layers": LAYERS, "alpha": 0.2},
    }
}


class Net(nn.Module):
    """Two LSTMs over 20 steps of two values, their mean over time, and a linear head."""

    def __init__(self, width=64):
        super().__init__()
        self.first = nn.LSTM(2, width, batch_first=True)
        self.second = nn.LSTM(width, width, batch_first=True)
        self.mean = nn.AdaptiveAvgPool1d(1)
        self.head = nn.Linear(width, 10)

    def forward(self, x):  # noqa: D102
        states, _ = self.first(x)
        states, _ = self.second(states)
        return self.head(self.mean(states.transpose(1, 2)).squeeze(2))


def load(seed, *, rows: int = 2000, scored: int = 2000, split: str = "test"):
    """Generate training signals with the seed, and other signals to score on."""
    return signals(rows, seed), signals(scored, {"validation": 10**6, "test": 2 * 10**6}[split])


def signals(count, seed):
    """Generate signals ``(count, 20, 2)``, and their digits."""
    settings = get_dataset_args()
    settings.num_samples, settings.seed, settings.train_split = count, seed, 1.0
    raw = make_dataset(settings)
    x = torch.from_numpy(raw["x"]).float().view(-1, 20, 2)
    return TensorDataset(x, torch.from_numpy(raw["y"]))


def train(data, scored, *, lr: float, epochs: int, layers: tuple = (), alpha: float = 1.0):
    """Train a network and return its scores."""
    model = Net()
    criterion = nn.CrossEntropyLoss()
    if layers:
        criterion = ManifoldMixup(model, layers, alpha=alpha).wrap(criterion)
    fit(model, criterion, data, lr=lr, epochs=epochs, batch=100)
    return classification(*predict(model, scored))


if __name__ == "__main__":
    compare(__doc__, load, train, TABLES, quick={"rows": 200, "scored": 200, "epochs": 5})
