"""A loop with Hugging Face Accelerate: MNIST-1D on any number of devices, resumed after a stop.

    accelerate launch examples/accelerate_loop.py --epochs 10
    accelerate launch examples/accelerate_loop.py --epochs 20      # resumes after epoch 10
    torchrun --nproc-per-node 2 examples/accelerate_loop.py --cpu  # two processes without a GPU

It needs ``pip install . accelerate mnist1d``, but no adapter. Every process mixes its
own part of a batch with its own plans. ``accelerate launch --cpu`` starts only one process unless
MPI is installed.
"""

import argparse
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
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


def train(epochs, folder, cpu=False, count=5000):
    """Train up to an epoch; resume from the checkpoint in the folder if there is one."""
    # With this sampler, the order of an epoch depends only on its number.
    order = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = Accelerator(cpu=cpu, dataloader_config=order)
    trained_on, (x_test, y_test) = signals(count)
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(trained_on, batch_size=50, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    mixup = ManifoldMixup(model, layers=["input", "0", "1"], alpha=2.0, seed=0)
    criterion = mixup.wrap(nn.CrossEntropyLoss())
    accelerator.register_for_checkpointing(mixup)
    if folder.exists():
        accelerator.load_state(folder)
    done = mixup.state_dict()["step"] // len(loader)  # a step is a batch in train mode
    for epoch in range(done, epochs):
        loader.set_epoch(epoch)
        model.train()
        for x, y in loader:
            loss = criterion(model(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        accelerator.save_state(folder)
        model.eval()
        with torch.no_grad():
            predicted = model(x_test.to(accelerator.device)).argmax(1).cpu()
        right = (predicted == y_test).float().mean().item()
        accelerator.print(f"epoch {epoch + 1}: test accuracy {right:.4f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("accelerate_loop"))
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--count", type=int, default=5000, help="number of examples")
    given = parser.parse_args()
    train(given.epochs, given.folder, given.cpu, given.count)
