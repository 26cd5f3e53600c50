"""The test NLL of mixed targets when states are mixed at a layer.

As in Figure 2 of the paper's first submission (ICLR 2019): the flatter the curve over λ, the
better the model predicts mixed targets from mixed states at that layer.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup, MixPlan
from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.evaluate.inference import CHUNK, device_of

LAMS = tuple(k / 50 for k in range(51))
"""λ from 0 to 1 in steps of 0.02, as in the authors' code."""


@torch.no_grad()
def interpolated_nll(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    layers: Sequence[str],
    lams: Sequence[float] = LAMS,
    generator: torch.Generator,
) -> dict[str, tuple[float, ...]]:
    """Return the curve of every layer: the NLL in nats for each λ.

    The NLL is ``λ · CE(y) + (1 - λ) · CE(y of the partner)`` in eval mode, averaged over the test
    set; at λ = 1 and λ = 0 it is the plain NLL. All layers and all λ use the same random pairs, so
    that their curves are comparable. A copy of the model is mixed: the model itself, and a
    `ManifoldMixup` attached to it, do not change.

    Args:
        model: returns logits, ``(n, classes)``.
        x: inputs, ``(n, …)``, uint8 or floating point.
        y: labels, ``(n,)``.
        layers: as for `ManifoldMixup`.
        lams: the values of λ, from 0 to 1.
        generator: a CPU generator for the pairs.

    Raises:
        ValueError: a layer is unknown or bypassed, or λ is not from 0 to 1.
        RuntimeError: a layer did not run.
    """
    device = device_of(model, x)
    twin = copy.deepcopy(model).eval()  # without an attached ManifoldMixup
    mixup = ManifoldMixup(twin, layers, example=as_input(x[:2].to(device)))
    batches = list(_pairs(len(x), generator))
    return {
        layer: tuple(_nll(twin, mixup, x, y, layer, lam, batches) for lam in lams)
        for layer in mixup.layers
    }


def _pairs(count: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of row indices, shuffled as test sets may be sorted by class, and partners."""
    for rows in torch.randperm(count, generator=generator).split(CHUNK):
        yield rows, torch.randperm(len(rows), generator=generator)


def _nll(
    model: nn.Module,
    mixup: ManifoldMixup,
    x: Tensor,
    y: Tensor,
    layer: str,
    lam: float,
    batches: list[tuple[Tensor, Tensor]],
) -> float:
    device = device_of(model, x)
    total = 0.0
    for rows, perm in batches:
        plan = MixPlan(layer, lam=torch.tensor(lam, dtype=torch.float32), perm=perm)
        with mixup.using(plan):
            output = model(as_input(x[rows.to(x.device)].to(device)))
            mixed = mixup.target(y[rows.to(y.device)].to(device), output)
        if mixed.plan is None:
            raise RuntimeError(f"layer {layer!r} did not run, so nothing was interpolated.")
        total += mixed.loss(F.cross_entropy, output.double(), reduction="sum").item()
    return total / len(x)
