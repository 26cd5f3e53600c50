"""Theorem 1 of the paper in numbers: the minimum of J for each dimension of the hidden state.

J (section 3.1) is the minimal expected loss over all representations and classifiers. Here all
examples of a class share one hidden state, which is enough for the proof. Pairs are two different
classes, drawn uniformly, and the loss is the squared error, which can reach 0. The free variables
are one point per class, and the classifier.
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
        """The rank of AᵀH; the theorem needs classes - 1."""
        return int(torch.linalg.matrix_rank(self.weight.T @ self.states, rtol=1e-5))

    @property
    def free(self) -> int:
        """The dimension of the null space of Aᵀ, in which a class may vary without effect."""
        return len(self.weight) - int(torch.linalg.matrix_rank(self.weight, rtol=1e-5))


@dataclass(frozen=True)
class Point:
    """The results for one dimension of the hidden state.

    Attributes:
        dim: dimension of the hidden state.
        least: the minimum of J for an affine classifier, in closed form.
        affine: J of an affine classifier found by optimisation, for each seed.
        mlp: J of a perceptron found by optimisation, for each seed; an upper bound of its minimum.
        found: the affine solution of the first seed.
        constructed: the solution of the proof, if the dimension is large enough.
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
    """Minimise J for an affine classifier and for a perceptron, for each dimension.

    Args:
        classes: the number of classes d.
        dims: dimensions of the hidden state.
        alpha: parameter α of the Beta(α, α) distribution of λ.
        seeds: random starts for each of ``dims``.
        steps: training steps of the perceptrons.
    """
    flexible = mlp_found(classes, dims, alpha, seeds=seeds, steps=steps)
    points = []
    for dim, mlp in zip(dims, flexible, strict=True):
        with _one_thread():
            solutions = [affine_found(classes, dim, alpha, seed=seed) for seed in range(seeds)]
        points.append(
            Point(
                dim=dim,
                least=affine_least(classes, dim, alpha),
                affine=tuple(affine_objective(solution, alpha) for solution in solutions),
                mlp=tuple(mlp),
                found=solutions[0],
                constructed=construct(classes, dim) if dim >= classes - 1 else None,
            )
        )
    return points


def affine_least(classes: int, dim: int, alpha: float) -> float:
    """Return the minimum of J for an affine classifier in closed form.

    With the residuals ``r`` of the classes, J is ``2 E[λ²] · mean |r|²`` plus a term with products
    of two residuals. The bias can make the sum of the residuals 0, and ``dim`` dimensions can make
    ``dim`` of the ``classes - 1`` other singular values 0. Each remaining one costs
    ``(α + 1) / ((2α + 1) d) - α / ((2α + 1) d (d - 1))``.
    """
    d, left = classes, max(classes - 1 - dim, 0)
    return left * ((alpha + 1) / d - alpha / (d * (d - 1))) / (2 * alpha + 1)


def construct(classes: int, dim: int) -> Solution:
    """Build the solution of the proof: states and weights are both a regular simplex.

    Raises:
        ValueError: ``dim`` is less than ``classes - 1``, so that there is no solution.
    """
    if dim < classes - 1:
        raise ValueError(f"the proof needs {classes - 1} dimensions for {classes} classes.")
    corners = torch.zeros(dim, classes, dtype=torch.float64)
    corners[: classes - 1] = torch.from_numpy(helmert(classes))
    return Solution(corners, corners, torch.full((classes,), 1 / classes, dtype=torch.float64))


def affine_objective(solution: Solution, alpha: float) -> float:
    """Return the exact J of a solution."""
    states, weight, bias = solution
    return float(_objective(lambda h: h @ weight + bias, states.T, _nodes(alpha, 2)))


def affine_found(classes: int, dim: int, alpha: float, *, seed: int = 0) -> Solution:
    """Minimise J of an affine classifier from a random start with L-BFGS."""
    generator = torch.Generator().manual_seed(seeded("theory", seed, dim))

    def draw(*shape: int) -> Tensor:
        start = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return start.requires_grad_()

    states, weight, bias = draw(classes, dim), draw(dim, classes), draw(classes)
    nodes = _nodes(alpha, 2)  # exact, since the loss is quadratic in λ
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
    """Minimise J of perceptrons with two hidden layers with Adam on random draws of λ.

    The result is an upper bound of the minimum; more units and steps reduce it. All perceptrons
    are trained at once.

    Args:
        classes: the number of classes d.
        dims: dimensions of the hidden state.
        alpha: parameter α of the Beta(α, α) distribution of λ.
        seeds: perceptrons for each of ``dims``.
        steps: training steps.
        width: units of a hidden layer.

    Returns:
        J for each of ``dims``, a number per seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded("theory", "mlp"))
        perceptrons = _Perceptrons(classes, dims, seeds, width)
        optimizer = torch.optim.Adam(
            [perceptrons.states, *perceptrons.weights.values()], lr=1e-2, fused=True
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
        draws = torch.distributions.Beta(alpha, alpha)
        for _ in range(steps):
            lam = draws.sample((len(perceptrons.states), classes * (classes - 1) // 2, 1))
            perceptrons.losses(lam).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    with torch.no_grad():
        objectives = torch.zeros(len(perceptrons.states))
        for lam, share in zip(*_nodes(alpha, 50), strict=True):
            objectives += share * perceptrons.losses(lam.float())
    return [part.tolist() for part in objectives.split(seeds)]


class _Perceptrons:
    """Several perceptrons trained in parallel, each with its hidden states of the classes."""

    def __init__(self, classes: int, dims: Sequence[int], seeds: int, width: int) -> None:
        most = max(dims)
        used = torch.tensor(dims).repeat_interleave(seeds)[:, None, None]
        self.inside = (torch.arange(most) < used).float()  # other dimensions are masked to 0
        nets = [self._net(most, width, classes) for _ in used]
        self.net, (self.weights, _) = nets[0], stack_module_state(nets)
        self.states = (3 * torch.randn(len(used), classes, most)).requires_grad_()

    def losses(self, lam: Tensor) -> Tensor:
        """Return the loss of each perceptron, averaged over the pairs of classes."""
        return _squares(self._classify, self.states * self.inside, lam).mean(-1)

    def _classify(self, states: Tensor) -> Tensor:
        outputs: Tensor = vmap(lambda weights, h: functional_call(self.net, weights, (h,)))(
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
    """Use a single thread, since more threads slow down computations on a few hundred numbers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _nodes(alpha: float, count: int) -> tuple[Tensor, Tensor]:
    """Return quadrature nodes and weights for λ, exact for polynomials of degree 2 · count - 1."""
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
    """Return the squared error of every pair of classes, ``(…, pairs)``, mixed with ``lam``."""
    classes = states.shape[-2]
    first, second = torch.triu_indices(classes, classes, 1)
    target = torch.eye(classes, dtype=states.dtype)
    output = classify(lam * states[..., first, :] + (1 - lam) * states[..., second, :])
    residual: Tensor = output - lam * target[first] - (1 - lam) * target[second]
    return residual.square().sum(-1)
