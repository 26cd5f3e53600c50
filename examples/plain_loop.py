"""A plain PyTorch loop: MNIST-1D, optionally compiled, resumed after a stop.

    python examples/plain_loop.py --epochs 10
    python examples/plain_loop.py --epochs 20 --compile    # resumes after epoch 10

It needs ``pip install . mnist1d``. On a CPU, a resumed run is bit-identical to a run
that was never stopped: all randomness comes from a seed and the epoch, or from the stream of plans,
whose position is in the checkpoint.
"""

import argparse
from pathlib import Path

import torch
from mnist1d.data import get_dataset_args, make_dataset
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from manifold_mixup import ManifoldMixup


def signals(count):
    """Generate MNIST-1D (Greydanus and Kobak, 2020); a fifth of it is the test set."""
    settings = get_dataset_args()
    settings.num_samples = count
    raw = make_dataset(settings)
    x, x_test = (torch.from_numpy(raw[key]).float() for key in ("x", "x_test"))
    y, y_test = (torch.from_numpy(raw[key]) for key in ("y", "y_test"))
    return TensorDataset(x, y), (x_test, y_test)


def build(width=128):
    """Build a perceptron with two hidden layers for signals of 40 values."""
    stem = nn.Sequential(nn.Linear(40, width), nn.BatchNorm1d(width), nn.ReLU())
    body = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
    return nn.Sequential(stem, body, nn.Linear(width, 10))


def train(epochs, checkpoint, backend=None, count=5000):
    """Train up to an epoch, resuming from the checkpoint if there is one; return the model."""
    trained_on, (x_test, y_test) = signals(count)
    torch.manual_seed(0)
    core = build()
    model = core if backend is None else torch.compile(core, backend=backend)
    mixup = ManifoldMixup(model, layers=["input", "0", "1"], alpha=2.0, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    optimizer = torch.optim.Adam(core.parameters(), lr=1e-3)
    parts = {"model": core, "optimizer": optimizer, "mixup": mixup}
    order = torch.Generator()
    loader = DataLoader(trained_on, batch_size=100, shuffle=True, generator=order)
    if checkpoint.exists():
        for name, state in torch.load(checkpoint).items():
            parts[name].load_state_dict(state)
    done = mixup.state_dict()["step"] // len(loader)  # a step is a batch in train mode
    for epoch in range(done, epochs):
        order.manual_seed(epoch)
        model.train()
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.save({name: part.state_dict() for name, part in parts.items()}, checkpoint)
        model.eval()
        with torch.no_grad():
            right = (model(x_test).argmax(1) == y_test).float().mean().item()
        print(f"epoch {epoch + 1}: test accuracy {right:.4f}")
    return core


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--checkpoint", type=Path, default=Path("plain_loop.pt"))
    parser.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND")
    parser.add_argument("--count", type=int, default=5000, help="number of examples")
    given = parser.parse_args()
    train(given.epochs, given.checkpoint, given.compile, given.count)
