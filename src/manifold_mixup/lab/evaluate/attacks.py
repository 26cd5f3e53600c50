"""White-box attacks: one gradient step (FGSM), many (PGD), and both as the authors ran them.

An ε has a meaning only in a space. ``"data"`` is the unit of the model's inputs: for images, pixels
of 0 to 1. ``"standardised"`` is the unit after the model's standardisation, which the authors' code
of 2018 attacks in. With CIFAR-10's standard deviations of 0.247, 0.243 and 0.262, its ε = 0.03 is
0.0074 or 1.9/255 in pixels, while 8/255 is common. Table 7 of the paper does not state ε.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup.lab.evaluate.inference import CHUNK, device_of, inputs

SPACES = {"data": "the units of the data", "standardised": "standardised units"}


@dataclass(frozen=True)
class Attack:
    """An attack of ``steps`` steps of ``step_size`` along the sign of the loss's gradient.

    Attributes:
        name: its name in tables.
        eps: the size ε; with ``projected``, the maximal change of every value. ``None`` for no
            limit.
        step_size: the change of every value in a step.
        space: the unit of ``eps`` and ``step_size``, see above.
        steps: the number of steps.
        projected: whether the input is projected back to within ``eps`` after each step.
        random_start: whether it starts at a uniform random point within ``eps``.
        loss: the loss to increase: cross-entropy, or the binary cross-entropy of the softmax, with
            which the authors trained and attacked. The latter also depends on the probability of
            each wrong class, so its gradient has another direction.
        clipped: whether values are clipped to the bounds of the data, if it has bounds.

    Raises:
        ValueError: ``eps`` is missing but needed, or a number is out of range.
    """

    name: str
    eps: float | None
    step_size: float
    space: Literal["data", "standardised"] = "data"
    steps: int = 1
    projected: bool = False
    random_start: bool = False
    loss: Literal["cross-entropy", "bce of softmax"] = "cross-entropy"
    clipped: bool = True

    def __post_init__(self) -> None:
        if self.eps is None and (self.projected or self.random_start):
            raise ValueError(
                f"{self.name}: a projection or a random start needs eps, but eps is None."
            )
        if self.steps < 1 or not self.step_size >= 0 or not (self.eps is None or self.eps >= 0):
            raise ValueError(
                f"{self.name}: expected steps >= 1, step_size >= 0 and eps >= 0, but got "
                f"steps={self.steps}, step_size={self.step_size}, eps={self.eps}."
            )

    def __str__(self) -> str:
        return self.stated(SPACES[self.space])

    def stated(self, space: str) -> str:
        """Describe the attack by its ε, its space in the words given, and unusual settings."""
        eps = "no ε" if self.eps is None else f"ε = {self.eps:.4g}"
        many = f", {self.steps} steps of {self.step_size:.4g}" if self.steps > 1 else ""
        parts = [f"{self.name}: {eps}{many} in {space}"]
        parts += ["random start"] if self.random_start else []
        parts += ["not projected"] if self.steps > 1 and not self.projected else []
        parts += ["not clipped"] if not self.clipped else []
        return ", ".join([*parts, self.loss])


def one_step(eps: float) -> Attack:
    """Return FGSM (Goodfellow et al., 2015) in the units of the data."""
    return Attack("FGSM", eps, step_size=eps)


def pgd(eps: float, *, steps: int = 20, step_size: float | None = None) -> Attack:
    """Return PGD (Madry et al., 2018) in the units of the data.

    The defaults are those of their CIFAR-10 attack at ε = 8/255: 20 steps of ε/4 from a random
    start.
    """
    return Attack(
        f"PGD-{steps}",
        eps,
        steps=steps,
        step_size=eps / 4 if step_size is None else step_size,
        projected=True,
        random_start=True,
    )


def authors_fgsm(eps: float = 0.03) -> Attack:
    """Return the FGSM of the authors' code, which has ε from 0.01 to 0.1, most often 0.03."""
    return Attack(
        "FGSM of the authors",
        eps,
        space="standardised",
        step_size=eps,
        loss="bce of softmax",
        clipped=False,
    )


def authors_pgd(eps: float = 0.03, *, steps: int = 200) -> Attack:
    """Return the PGD of the authors' code: their FGSM repeated, with steps of a full ε.

    It has no projection and no random start, and ignores its step size argument of 0.01.
    """
    return replace(authors_fgsm(eps), name=f"PGD-{steps} of the authors", steps=steps)


def unbounded(*, steps: int = 200, step_size: float = 0.01) -> Attack:
    """Return the sanity check of the paper's appendix D: without a limit, every model must fail.

    A model that survives it masks its gradients. The appendix states 200 steps of 0.01 and no ε;
    the space and the loss are those of the authors' code.
    """
    attack = replace(authors_pgd(steps=steps), name=f"PGD-{steps} unbounded")
    return replace(attack, eps=None, step_size=step_size)


def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    bounds: tuple[float, float] | None = None,
) -> Tensor:
    """Attack with the fast gradient sign method, ``x + eps * sign(∂ cross-entropy / ∂x)``.

    The mode of the model is not changed; put it in eval mode first.

    Args:
        model: returns logits, ``(n, classes)``.
        x: inputs, ``(n, …)``.
        y: labels, ``(n,)``.
        eps: the step, in the units of ``x``.
        bounds: the attacked inputs are clamped to these values.
    """
    return perturb(model, x, y, one_step(eps), bounds=bounds)


def perturb(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    bounds: tuple[float, float] | None = None,
    std: float | Sequence[float] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack one batch.

    The mode of the model is not changed; put it in eval mode first. A value without a gradient, or
    with a NaN as gradient, is not moved; see `without_gradient`.

    Args:
        model: returns logits, ``(n, classes)``.
        x: inputs, ``(n, …)``, floating point.
        y: labels, ``(n,)``.
        attack: the attack.
        bounds: the minimal and maximal value of the data; ``None`` if it has no bounds.
        std: the standard deviation that the model divides its inputs by, one number for all or one
            per channel (dimension 1); 1 for a model that takes standardised inputs. ``None`` reads
            it from ``model.standardize``, the first module of this lab's models. Only attacks in
            standardised space need it.
        generator: a CPU generator for the random start.

    Raises:
        ValueError: the attack needs ``std`` or ``generator``, which is missing.
    """
    unit = _unit(model, x, attack, std)
    clean = x.detach()
    x = _start(clean, attack, unit, generator)
    for _ in range(attack.steps):
        direction = _slope(model, x, y, attack).sign().nan_to_num()
        x = x + attack.step_size * unit * direction
        x = _restrict(x, clean, attack, unit, bounds)
    return x


def attack_all(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    bounds: tuple[float, float] | None = None,
    std: float | Sequence[float] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Attack many stored inputs with `perturb`, in chunks on the model's device."""
    device = device_of(model, x)
    chunks = zip(inputs(x, device=device), y.to(device).split(CHUNK), strict=True)
    return torch.cat(
        [
            perturb(model, part, labels, attack, bounds=bounds, std=std, generator=generator)
            for part, labels in chunks
        ]
    )


def without_gradient(model: nn.Module, x: Tensor, y: Tensor, attack: Attack) -> Tensor:
    """Return for which stored inputs the gradient of the attack's loss is zero or not finite.

    An attack along its sign does not move such an input, which then looks as if it withstood.

    Returns:
        One truth value for each input, ``(n,)``, on the model's device.
    """
    device = device_of(model, x)
    chunks = zip(inputs(x, device=device), y.to(device).split(CHUNK), strict=True)
    size = [_slope(model, part, labels, attack).abs().flatten(1).amax(1) for part, labels in chunks]
    magnitude = torch.cat(size)
    return (magnitude == 0) | ~magnitude.isfinite()


def std_of(model: nn.Module) -> Tensor | None:
    """Return the standard deviation in ``model.standardize``, or None if there is none."""
    std = getattr(getattr(model, "standardize", None), "std", None)
    return std if isinstance(std, Tensor) else None


def _unit(
    model: nn.Module, x: Tensor, attack: Attack, std: float | Sequence[float] | None
) -> Tensor:
    """Return one unit of the attack's space in the units of ``x``, broadcastable to ``x``."""
    if attack.space == "data":
        return x.new_ones(())
    data_std = std_of(model) if std is None else std
    if data_std is None:
        raise ValueError(
            f"{attack.name} is in standardised units, but {type(model).__name__} has no module "
            "'standardize' that defines them. Give std=, the standard deviation that the model "
            "divides its inputs by, or std=1 if it takes standardised inputs."
        )
    unit = torch.as_tensor(data_std, dtype=x.dtype, device=x.device).detach().squeeze()
    return unit if unit.ndim == 0 else unit.view(-1, *(1 for _ in x.shape[2:]))


def _start(
    clean: Tensor, attack: Attack, unit: Tensor, generator: torch.Generator | None
) -> Tensor:
    if not attack.random_start or attack.eps is None:
        return clean
    if generator is None:
        raise ValueError(
            f"{attack.name} starts at a random point. Give generator=torch.Generator(), or "
            "replace(attack, random_start=False)."
        )
    # Drawn on the CPU, so that the start is the same on every device.
    share = torch.rand(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)
    return clean + attack.eps * unit * (2 * share - 1)


def _slope(model: nn.Module, x: Tensor, y: Tensor, attack: Attack) -> Tensor:
    # Summed, so that the scale of a row's gradient does not depend on the batch size.
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        if attack.loss == "cross-entropy":
            loss = F.cross_entropy(logits, y, reduction="sum")
        else:
            wanted = F.one_hot(y, logits.shape[1]).to(logits.dtype)
            loss = F.binary_cross_entropy(logits.softmax(1), wanted, reduction="sum")
        if not loss.requires_grad:  # the model detaches its outputs
            return torch.zeros_like(x)
        (slope,) = torch.autograd.grad(loss, x, allow_unused=True)
        return torch.zeros_like(x) if slope is None else slope


def _restrict(
    x: Tensor, clean: Tensor, attack: Attack, unit: Tensor, bounds: tuple[float, float] | None
) -> Tensor:
    if attack.projected and attack.eps is not None:
        x = x.clamp(clean - attack.eps * unit, clean + attack.eps * unit)
    if attack.clipped and bounds is not None:
        x = x.clamp(*bounds)
    return x
