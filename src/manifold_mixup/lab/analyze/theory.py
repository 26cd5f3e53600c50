"""Theorem 1 of the paper as numbers: how low J goes with the dimension of the hidden state.

J (section 3.1) is the least expected loss over all representations and classifiers. Here all
examples of a class share one hidden state (the proof has no need of more), pairs are of two
different classes, drawn uniformly, and the loss is the squared error, which a classifier can bring
to 0. What remains to be chosen is one point for each class and the classifier between them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.linalg import helmert
from scipy.special import roots_jacobi
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from manifold_mixup.lab.seeds import seeded


class Solution(NamedTuple):
    """Hidden states and an affine classifier ``f(h) = Aᵀh + b`` for them.

    Attributes:
        states: H, a hidden state for each class, ``(dim, classes)``.
        weight: A, ``(dim, classes)``.
        bias: b, ``(classes,)``.
    """

    states: Tensor
    weight: Tensor
    bias: Tensor

    @property
    def rank(self) -> int:
        """Rank of AᵀH: the theorem needs classes - 1."""
        return int(torch.linalg.matrix_rank(self.weight.T @ self.states, rtol=1e-5))

    @property
    def free(self) -> int:
        """Dimension of the null space of Aᵀ: in how many directions a class may vary unseen."""
        return len(self.weight) - int(torch.linalg.matrix_rank(self.weight, rtol=1e-5))


@dataclass(frozen=True)
class Point:
    """What is known of one dimension of the hidden state.

    Attributes:
        dim: dimension of the hidden state.
        least: the least J of an affine classifier, in closed form.
        affine: J as it was found by looking, a number a seed.
        mlp: likewise of a perceptron, which only bounds its least J from above.
        found: the solution of the first seed.
        constructed: the solution of the proof, where it has one.
    """

    dim: int
    least: float
    affine: tuple[float, ...]
    mlp: tuple[float, ...]
    found: Solution
    constructed: Solution | None


def sweep(
    classes: int, dims: Sequence[int], alpha: float, *, seeds: int, steps: int
) -> list[Point]:
    """Find J for an affine classifier and for a perceptron, dimension by dimension.

    Args:
        classes: d.
        dims: dimensions of the hidden state.
        alpha: of the Beta distribution that λ comes from.
        seeds: starts for each of ``dims``.
        steps: of training a perceptron.
    """
    flexible = mlp_found(classes, dims, alpha, seeds=seeds, steps=steps)
    points = []
    for dim, mlp in zip(dims, flexible, strict=True):
        with _one_thread():
            found = [affine_found(classes, dim, alpha, seed=seed) for seed in range(seeds)]
        points.append(
            Point(
                dim=dim,
                least=affine_least(classes, dim, alpha),
                affine=tuple(affine_objective(one, alpha) for one in found),
                mlp=tuple(mlp),
                found=found[0],
                constructed=construct(classes, dim) if dim >= classes - 1 else None,
            )
        )
    return points


def affine_least(classes: int, dim: int, alpha: float) -> float:
    """Return the least J of an affine classifier in closed form.

    With residuals ``r`` of the classes, J is ``2 E[λ²] · mean |r|²`` and a term of the products of
    two residuals. A bias can bring the residuals' sum to 0, and ``dim`` further directions that
    many of the other ``classes - 1`` unit singular values: each one left costs
    ``(α + 1) / ((2α + 1) d) - α / ((2α + 1) d (d - 1))``.
    """
    d, left = classes, max(classes - 1 - dim, 0)
    return left * ((alpha + 1) / d - alpha / (d * (d - 1))) / (2 * alpha + 1)


def construct(classes: int, dim: int) -> Solution:
    """Build the solution of the proof: a regular simplex is both the states and the weights.

    Raises:
        ValueError: ``dim`` is less than ``classes - 1``, so that there is none.
    """
    if dim < classes - 1:
        raise ValueError(f"the proof needs {classes - 1} dimensions for {classes} classes.")
    corners = torch.zeros(dim, classes, dtype=torch.float64)
    corners[: classes - 1] = torch.from_numpy(helmert(classes))
    return Solution(corners, corners, torch.full((classes,), 1 / classes, dtype=torch.float64))


def affine_objective(solution: Solution, alpha: float) -> float:
    """Return J of a solution, exactly."""
    states, weight, bias = solution
    return float(_objective(lambda h: h @ weight + bias, states.T, _nodes(alpha, 2)))


def affine_found(classes: int, dim: int, alpha: float, *, seed: int = 0) -> Solution:
    """Look for the least J of an affine classifier from a random start, by L-BFGS."""
    generator = torch.Generator().manual_seed(seeded("theory", seed, dim))

    def draw(*shape: int) -> Tensor:
        start = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return start.requires_grad_()

    states, weight, bias = draw(classes, dim), draw(dim, classes), draw(classes)
    nodes = _nodes(alpha, 2)  # exact: the loss is a square in λ
    optimizer = torch.optim.LBFGS(
        [states, weight, bias],
        max_iter=500,
        history_size=30,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        objective = _objective(lambda h: h @ weight + bias, states, nodes)
        objective.backward()
        return objective

    optimizer.step(closure)
    return Solution(states.detach().T, weight.detach(), bias.detach())


def mlp_found(
    classes: int,
    dims: Sequence[int],
    alpha: float,
    *,
    seeds: int,
    steps: int = 3000,
    width: int = 128,
) -> list[list[float]]:
    """Look for the least J of a perceptron with two hidden layers, by Adam on fresh draws of λ.

    What it finds bounds the least J from above; with more units and steps it falls further. All
    perceptrons are trained at once.

    Args:
        classes: d.
        dims: dimensions of the hidden state.
        alpha: of the Beta distribution.
        seeds: perceptrons for each of ``dims``.
        steps: of training.
        width: units of a hidden layer.

    Returns:
        J for each of ``dims``, a number a seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded("theory", "mlp"))
        flock = _Perceptrons(classes, dims, seeds, width)
        optimizer = torch.optim.Adam([flock.states, *flock.weights.values()], lr=1e-2, fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        draws = torch.distributions.Beta(alpha, alpha)
        for _ in range(steps):
            lam = draws.sample((len(flock.states), classes * (classes - 1) // 2, 1))
            flock.losses(lam).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    with torch.no_grad():
        found = torch.zeros(len(flock.states))
        for lam, share in zip(*_nodes(alpha, 50), strict=True):
            found += share * flock.losses(lam.float())
    return [part.tolist() for part in found.split(seeds)]


class _Perceptrons:
    """Several perceptrons beside each other, each with its hidden states for the classes."""

    def __init__(self, classes: int, dims: Sequence[int], seeds: int, width: int) -> None:
        most = max(dims)
        used = torch.tensor(dims).repeat_interleave(seeds)[:, None, None]
        self.inside = (torch.arange(most) < used).float()  # the rest is 0, as if it were not there
        nets = [self._net(most, width, classes) for _ in used]
        self.net, (self.weights, _) = nets[0], stack_module_state(nets)
        self.states = (3 * torch.randn(len(used), classes, most)).requires_grad_()

    def losses(self, lam: Tensor) -> Tensor:
        """Return the loss of each, the mean over the pairs of classes."""
        return _squares(self._classify, self.states * self.inside, lam).mean(-1)

    def _classify(self, states: Tensor) -> Tensor:
        outputs: Tensor = vmap(lambda own, h: functional_call(self.net, own, (h,)))(
            self.weights, states
        )
        return outputs

    @staticmethod
    def _net(dim: int, width: int, classes: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, classes),
        )  # fmt: skip


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread inside: of a few hundred numbers, several only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _nodes(alpha: float, count: int) -> tuple[Tensor, Tensor]:
    """Return points and weights that integrate over λ, polynomials up to 2 · count - 1 exactly."""
    points, weights = roots_jacobi(count, alpha - 1, alpha - 1)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / weights.sum())


def _objective(
    classify: Callable[[Tensor], Tensor], states: Tensor, nodes: tuple[Tensor, Tensor]
) -> Tensor:
    objective = torch.zeros((), dtype=states.dtype)
    for lam, share in zip(*nodes, strict=True):
        objective = objective + share * _squares(classify, states, lam).mean()
    return objective


def _squares(classify: Callable[[Tensor], Tensor], states: Tensor, lam: Tensor) -> Tensor:
    """Return the loss of every pair of classes, ``(…, pairs)``, mixed with ``lam``."""
    classes = states.shape[-2]
    one, other = torch.triu_indices(classes, classes, 1)
    target = torch.eye(classes, dtype=states.dtype)
    output = classify(lam * states[..., one, :] + (1 - lam) * states[..., other, :])
    apart: Tensor = output - lam * target[one] - (1 - lam) * target[other]
    return apart.square().sum(-1)
