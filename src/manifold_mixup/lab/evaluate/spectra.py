"""How flat the hidden states of a class are: singular values, and what the classifier reads.

The paper claims (section 3.2, Figures 1, 9 to 12) that with mixing at a layer, the states of a
class vary in fewer directions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.evaluate.inference import device_of, in_eval_mode


@dataclass(frozen=True)
class Flatness:
    """A summary of spectra, averaged over the classes.

    Attributes:
        s1: the greatest singular value. It grows with the square root of the number of examples.
        rest: the sum of the others.
        s1_share: 100 · s1 / (s1 + rest).
        outside: the share of the squares outside the first direction, 100 · (1 - s1² / Σ s²). For
            centred states, it is a share of the variance.
    """

    s1: float
    rest: float
    s1_share: float
    outside: float


def class_spectra(states: Tensor, y: Tensor, *, centred: bool, complete: bool = True) -> Tensor:
    """Return the singular values of the states of every class, in descending order.

    Args:
        states: hidden states, ``(n, dim)``.
        y: labels, ``(n,)``.
        centred: whether to subtract the mean of each class; the paper does not state it.
        complete: whether every class must have as many examples as the states have dimensions. If
            not, the directions that its examples leave out have singular value 0.

    Returns:
        ``(classes, dim)``, in double precision.

    Raises:
        ValueError: a class has fewer examples than the states have dimensions, so that its spectrum
            would be incomplete.
    """
    spectra = []
    for label in y.unique():
        class_states = states[y == label].double()
        if complete and len(class_states) < states.shape[1]:
            raise ValueError(
                f"class {int(label)} has {len(class_states)} examples, but the states have "
                f"{states.shape[1]} dimensions, so its spectrum would be incomplete. Use more "
                f"examples, or a narrower layer."
            )
        values = torch.linalg.svdvals(
            class_states - class_states.mean(0) if centred else class_states
        )
        spectra.append(F.pad(values, (0, states.shape[1] - len(values))))
    return torch.stack(spectra)


def flatness(spectra: Tensor) -> Flatness:
    """Summarise the spectra of classes, ``(classes, dim)``; a class that does not vary has none.

    Without any class that varies, all numbers are ``nan``.
    """
    spectra = spectra[spectra[:, 0] > 0]
    first, total = spectra[:, 0], spectra.sum(1)
    squares = spectra.square()
    return Flatness(
        s1=first.mean().item(),
        rest=(total - first).mean().item(),
        s1_share=100 * (first / total).mean().item(),
        outside=100 * (1 - squares[:, 0] / squares.sum(1)).mean().item(),
    )


def variance_within(states: Tensor, centred: Tensor) -> tuple[float, float]:
    """Return the share of the variance of all states that is within classes, in percent.

    The second number is the part along the second direction of each class. If it is close to 0,
    each class is on a line.

    Args:
        states: ``(n, dim)``.
        centred: their `class_spectra`, centred.
    """
    total = (states.double() - states.double().mean(0)).square().sum()
    within, squares = 100 / total, centred.square().to(total.device)
    second = squares[:, 1].sum() if squares.shape[1] > 1 else torch.zeros(())
    return float(within * squares.sum()), float(within * second)


@torch.no_grad()
def seen_share(states: Tensor, y: Tensor, weight: Tensor) -> float:
    """Return the share of the variance within classes that a linear classifier reads, in percent.

    This is the part in the row space of the weights. The mean of the weights over the classes is
    subtracted first, since a softmax ignores a constant added to all logits. By the corollary of
    Theorem 1, the rest of the variance is not constrained.

    Args:
        states: the inputs of the classifier, ``(n, dim)``.
        y: labels, ``(n,)``.
        weight: the weights of the classifier, ``(classes, dim)``.
    """
    rows = (weight - weight.mean(0)).double()
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    row_space = directions[values > 1e-6 * values[0]]
    within = within_class(states.double(), y)
    return float(100 * (within @ row_space.T).square().sum() / within.square().sum())


def within_class(states: Tensor, y: Tensor) -> Tensor:
    """Subtract from every state the mean of its class."""
    labels = y.unique(return_inverse=True)[1]
    sums = states.new_zeros(int(labels.max()) + 1, states.shape[1]).index_add_(0, labels, states)
    means: Tensor = sums / labels.bincount()[:, None]
    return states - means[labels]


@torch.no_grad()
def classifier_of(model: nn.Module, x: Tensor) -> nn.Linear:
    """Return the last linear layer that runs, whose input is the model's features.

    Args:
        model: the model.
        x: inputs, ``(n, …)``, of which two are used.

    Raises:
        ValueError: no linear layer runs.
    """
    linear_layers: list[nn.Linear] = []
    handles = [
        module.register_forward_hook(lambda one, *_: linear_layers.append(one))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with in_eval_mode(model):
            model(as_input(x[:2].to(device_of(model, x))))
    finally:
        for handle in handles:
            handle.remove()
    if not linear_layers:
        raise ValueError(f"{type(model).__name__} has no linear layer that runs.")
    return linear_layers[-1]
