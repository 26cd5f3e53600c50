"""APGD and Square, two attacks of AutoAttack, by the code of their authors.

That code is the package ``pyautoattack``, which is an extra of its own. It attacks inputs from 0 to
1 in the maximum norm. Other inputs are mapped to that range, and the results mapped back.

Sources: APGD, Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of
diverse parameter-free attacks", ICML 2020. Square, Andriushchenko, Croce, Flammarion and Hein,
"Square Attack: a query-efficient black-box adversarial attack via random search", ECCV 2020.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

PACKAGE = "pyautoattack"
_CHUNK = 250
"""The images that are attacked together, with their states and gradients."""

Bounds = tuple[float, float]
_Run = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Budget:
    """What the attacks may spend; the defaults are those that papers report.

    Attributes:
        steps: gradient steps of APGD in each restart.
        restarts: random starts of APGD.
        queries: queries of Square, that is, predictions that it may ask for.
        images: the number of test examples, a fixed random subset; all if there are fewer.

    Raises:
        ValueError: a number is below 1.
    """

    steps: int = 100
    restarts: int = 5
    queries: int = 1000
    images: int = 200

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} is {value}. Expected 1 or more.")


def require_package() -> None:
    """Raise a `ValueError` if the package with the attacks is not installed."""
    if find_spec(PACKAGE) is None:
        raise ValueError(
            f"APGD and Square are attacks of {PACKAGE}, which is not installed. "
            f"Install it with: pip install 'manifold-mixup[attacks]'"
        )


def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: Bounds,
    steps: int = 100,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    """Attack with APGD on the cross-entropy, which chooses its step sizes by itself.

    The mode of the model is not changed; put it in eval mode first.

    Args:
        model: returns logits, ``(n, classes)``.
        x: inputs, ``(n, …)``, floating point.
        y: labels, ``(n,)``.
        eps: the greatest change of every value, in the units of ``x``.
        bounds: the least and the greatest value of an attacked input.
        steps: gradient steps in each restart.
        restarts: random starts; only inputs that are still predicted right are attacked again.
        seed: the seed of the starts.

    Returns:
        For each input an attacked one that is predicted wrong, if one was found, or the input.

    Raises:
        ValueError: the package is not installed, or the outputs have no gradient.
    """
    require_package()
    from pyautoattack.autopgd_base import APGDAttack

    _require_gradient(model, x)

    def run(predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float) -> Tensor:
        attack = APGDAttack(
            predict, n_iter=steps, n_restarts=restarts, eps=eps, seed=seed, loss="ce"
        )
        adversarial: Tensor = attack.perturb(x, y)
        return adversarial

    return _attacked(run, model, x, y, eps, bounds)


def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: Bounds,
    queries: int = 1000,
    seed: int = 0,
) -> Tensor:
    """Attack with Square, which changes random squares and sees the logits alone.

    The arguments and the result are those of `apgd`, with ``queries`` in place of steps.

    Raises:
        ValueError: the package is not installed, or ``x`` are not images, ``(n, channels, height,
            width)``.
    """
    require_package()
    from pyautoattack.square import SquareAttack

    if x.ndim != 4:
        raise ValueError(f"Square attacks images only, but the inputs have shape {tuple(x.shape)}.")

    def run(predict: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, eps: float) -> Tensor:
        adversarial: Tensor = SquareAttack(predict, n_queries=queries, eps=eps, seed=seed).perturb(
            x, y
        )
        return adversarial

    return _attacked(run, model, x, y, eps, bounds)


def input_gradients(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the gradient of each example's cross-entropy with respect to its input.

    Raises:
        ValueError: the outputs have no gradient.
    """
    return torch.cat(
        [
            _gradient(model, part, labels)
            for part, labels in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True)
        ]
    )


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
    _require_graph(model, loss)
    (gradient,) = torch.autograd.grad(loss, x, allow_unused=True)
    if gradient is None:
        raise ValueError(_no_gradient(model))
    return gradient


def _require_gradient(model: nn.Module, x: Tensor) -> None:
    _gradient(model, x[:1], torch.zeros(1, dtype=torch.long, device=x.device))


def _require_graph(model: nn.Module, loss: Tensor) -> None:
    if not loss.requires_grad:
        raise ValueError(_no_gradient(model))


def _no_gradient(model: nn.Module) -> str:
    return (
        f"the outputs of {type(model).__name__} have no gradient with respect to its inputs, so no "
        f"white-box attack is possible. Does it detach them, round them, or run without gradients?"
    )


def _attacked(
    run: _Run, model: nn.Module, x: Tensor, y: Tensor, eps: float, bounds: Bounds
) -> Tensor:
    """Attack in the range from 0 to 1, in chunks; the result is within ``eps`` and ``bounds``."""
    low, width = bounds[0], bounds[1] - bounds[0]

    def predict(shares: Tensor) -> Tensor:
        logits: Tensor = model(low + width * shares)
        # Square writes in what it is given, which may be a model's own tensor.
        return logits if logits.requires_grad else logits.clone()

    parts = []
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # the attacks seed the global generators
        for part, labels in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True):
            shares = ((part - low) / width).clamp(0, 1)
            adversarial = low + width * run(predict, shares, labels, eps / width).detach()
            parts.append(adversarial.clamp(part - eps, part + eps).clamp(*bounds))
    return torch.cat(parts)


def bounds_of(x: Tensor, bounds: Bounds | None, *, reach: float) -> Bounds:
    """Return the bounds of the data, or for data without any, bounds that no attack reaches.

    Args:
        x: the inputs.
        bounds: the bounds of the data, if it has some.
        reach: the greatest change of a value by an attack.
    """
    if bounds is not None:
        return bounds
    return float(x.min()) - reach, float(x.max()) + reach
