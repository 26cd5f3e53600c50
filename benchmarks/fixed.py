"""What mixing adds to a training step of a small network: the fixed cost, on one thread.

The layers are the input and the outputs of the first two hidden layers. Every step draws its own
plan; nothing is drawn ahead.
"""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import steps
from benchmarks.steps import ALPHA
from benchmarks.tasks import CLASSES, Task
from benchmarks.turns import Timing, Way, added

WIDTHS = (64, 512)
BATCH = 64
LAYERS = ("input", "1", "3")
PLAIN, FORMULA = "plain step", "the plain formula"


def measure(seconds: float) -> Iterator[tuple[int, list[Timing]]]:
    """Yield each width, and what each implementation adds to the plain step."""
    for width in WIDTHS:
        ways = {
            PLAIN: steps.plain(_mlp(width)),
            FORMULA: formula(_mlp(width)),
            "the same once more": formula(_mlp(width)),
            "the same, λ each": formula(_mlp(width), each=True),
            "**`ManifoldMixup`**": steps.ours(_mlp(width), LAYERS),
            "**`ManifoldMixup`**, λ each": steps.ours(_mlp(width), LAYERS, per_sample=True),
            "torchvision `v2.MixUp`, input only": _torchvision(_mlp(width)),
            "timm `Mixup`, input only": _timm(_mlp(width)),
        }
        if find_spec("fastai") is not None:
            ways["fastai `MixUp`, input only, λ each"] = steps.fastai_mixup(_mlp(width))
        timings = added(
            {name: Way(step) for name, step in ways.items()},
            seconds,
            plain=PLAIN,
            reference=FORMULA,
        )
        yield width, timings


def _mlp(width: int) -> Task:
    torch.manual_seed(0)
    hidden = [each for _ in range(3) for each in (nn.Linear(width, width), nn.ReLU())]
    x = torch.randn(BATCH, width, generator=torch.Generator().manual_seed(0))
    return Task(nn.Sequential(*hidden, nn.Linear(width, CLASSES)), x, LAYERS)


def formula(task: Task, *, each: bool = False) -> steps.Step:
    """Return a step with the formula written out, as most repositories do.

    Args:
        task: the task.
        each: whether each example has its λ.
    """
    draw = np.random.default_rng(0)
    layer, perm = 0, torch.arange(BATCH)
    lam: Any = 1.0

    def mixed(x: Tensor) -> Tensor:
        own = lam[:, None] if each else lam
        return own * x + (1 - own) * x[perm]

    def mixing_at(number: int) -> Callable[..., Tensor | None]:
        return lambda _, __, state: mixed(state) if layer == number else None

    for number, name in enumerate(LAYERS[1:], 1):
        task.model.get_submodule(name).register_forward_hook(mixing_at(number))

    def step() -> None:
        nonlocal layer, lam, perm
        layer, lam = draw.integers(len(LAYERS)), draw.beta(ALPHA, ALPHA, BATCH if each else None)
        lam = torch.from_numpy(lam.astype(np.float32)) if each else lam
        perm = torch.from_numpy(draw.permutation(BATCH))
        output = task.model(mixed(task.x) if layer == 0 else task.x)
        reduction = "none" if each else "mean"
        own = cross_entropy(output, task.y, reduction=reduction)
        partner = cross_entropy(output, task.y[perm], reduction=reduction)
        loss = lam * own + (1 - lam) * partner
        task.descend(loss.mean() if each else loss)

    return step


def _torchvision(task: Task) -> steps.Step:
    from torchvision.transforms.v2 import MixUp

    mixup = MixUp(alpha=ALPHA, num_classes=CLASSES)
    images = task.x[:, None, None]  # it takes images

    def step() -> None:
        x, soft = mixup(images, task.y)
        task.descend(cross_entropy(task.model(x[:, 0, 0]), soft))

    return step


def _timm(task: Task) -> steps.Step:
    from timm.data import Mixup

    mixup = Mixup(mixup_alpha=ALPHA, label_smoothing=0.0, num_classes=CLASSES)

    def step() -> None:
        x, soft = mixup(task.x.clone(), task.y)  # it writes into the batch
        task.descend(cross_entropy(task.model(x), soft))

    return step
