"""Handwritten digits, and how near generated ones come to them."""

from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from _training import fit

PARTS = {
    "judge": slice(0, 500),
    "train": slice(500, 1000),
    "validation": slice(1000, 1400),
    "test": slice(1400, None),
}


def digits(part):
    """Return images with pixels from -1 to 1, ``(count, 1, 8, 8)``, and their classes."""
    images, classes = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    rows = order[PARTS[part]]  # in random order, as one writer's digits follow one another
    return (images[rows] / 8 - 1).float().view(-1, 1, 8, 8), classes[rows]


@cache
def judge():
    """Return the features, ``(count, 16)``, and the last layer of a classifier of digits."""
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(0)
        features = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(64 * 4, 16), nn.Tanh()),
        )
        head, data = nn.Linear(16, 10), TensorDataset(*digits("judge"))
        model = nn.Sequential(features, head)
        fit(model, nn.CrossEntropyLoss(), data, lr=1e-2, epochs=20, batch=50)
    return features.eval(), head


@torch.no_grad()
def score(images, real):
    """Return the Fréchet distance of generated images to real ones, and their inception score."""
    features, head = judge()
    of_images = features(images)
    likely = head(of_images).log_softmax(1).double()
    inception = (likely.exp() * (likely - likely.exp().mean(0).log())).sum(1).mean().exp()
    return {
        "Fréchet distance ↓": frechet(of_images.double(), features(real).double()).item(),
        "inception score ↑": inception.item(),
    }


def frechet(one, other):
    """Return the squared Fréchet distance of two sets of features, taken as Gaussian.

    ``|m - n|² + tr(A + B - 2 sqrt(A B))`` for their means and covariances (Heusel et al., 2017).
    """
    (a, b), shift = (each.T.cov() for each in (one, other)), one.mean(0) - other.mean(0)
    # The eigenvalues of a product of covariances are real and at least 0, up to rounding.
    roots = torch.linalg.eigvals(a @ b).real.clamp(min=0).sqrt()
    return shift @ shift + a.trace() + b.trace() - 2 * roots.sum()
