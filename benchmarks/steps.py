"""A training step without mixing, with Manifold Mixup, and with other implementations of mixup.

Each has its own model, from the same seed, and mixes with the same kind of plan.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.tasks import CLASSES, Task
from manifold_mixup import ManifoldMixup, MixPlan, sample_plan

ALPHA = 2.0
PAPER = ("input", "layer1", "layer2")

Step = Callable[[], None]


def plain(task: Task) -> Step:
    """Return a step without mixing, the lower bound."""
    return lambda: task.descend(task.loss())


def ours(
    task: Task, layers: tuple[str, ...], *, compiled: bool = False, per_sample: bool = False
) -> Step:
    """Return a step with this library; a compiled one has its graphs before the clock starts."""
    mixup = ManifoldMixup(
        task.model, layers, example=task.x[:2], alpha=ALPHA, per_sample=per_sample, seed=0
    )
    criterion = mixup.wrap(nn.CrossEntropyLoss())

    def step() -> None:
        task.descend(criterion(task.logits(), task.y))

    for layer in layers if compiled else ():
        with mixup.using(sample_plan(len(task.x), layers=[layer], alpha=ALPHA)):
            step()
    return step


def naive(task: Task) -> Step:
    """Return a step with the plain formula, with the same plans as `ours`."""
    plans = drawn_plans(len(task.x))
    drawn: list[MixPlan] = []  # the plan of the current step

    def mix_here(name: str) -> Callable[..., Tensor | None]:
        return lambda _, __, state: _formula(state, drawn[-1]) if drawn[-1].layer == name else None

    for name in PAPER[1:]:
        task.model.get_submodule(name).register_forward_hook(mix_here(name))

    def step() -> None:
        drawn[:] = [next(plans)]
        x = _formula(task.x, drawn[-1]) if drawn[-1].layer == "input" else task.x
        task.descend(_pair_loss(task.model(x), task.y, drawn[-1]))

    return step


def two_pass(task: Task) -> Step:
    """Return a step with two passes: one to read the layer's state, one to mix it."""
    plans = drawn_plans(len(task.x))

    def step() -> None:
        plan = next(plans)
        # The input needs no first pass, but such implementations do it for every layer.
        layer = task.model.conv1 if plan.layer == "input" else task.model.get_submodule(plan.layer)
        states: list[Tensor] = []
        with layer.register_forward_hook(lambda _, __, state: states.append(state)):
            task.model(task.x)
        partner = states[0][plan.perm]
        with layer.register_forward_hook(
            lambda _, __, state: plan.lam * state + (1 - plan.lam) * partner
        ):
            output = task.model(task.x)
        task.descend(_pair_loss(output, task.y, plan))

    return step


def torchvision_mixup(task: Task) -> Step:
    """Return a step with torchvision's input mixup."""
    from torchvision.transforms.v2 import MixUp

    mixup = MixUp(alpha=ALPHA, num_classes=CLASSES)

    def step() -> None:
        x, soft = mixup(task.x, task.y)
        task.descend(cross_entropy(task.model(x), soft))

    return step


def timm_mixup(task: Task) -> Step:
    """Return a step with timm's input mixup, which mixes the batch in place, here repeatedly."""
    from timm.data import Mixup

    mixup = Mixup(mixup_alpha=ALPHA, label_smoothing=0.0, num_classes=CLASSES)

    def step() -> None:
        x, soft = mixup(task.x, task.y)
        task.descend(cross_entropy(task.model(x), soft))

    return step


def fastai_mixup(task: Task) -> Step:
    """Return a step with fastai's input mixup, which draws a λ per example and mixes losses."""
    from fastai.callback.mixup import MixUp
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat

    mixup, batches = MixUp(ALPHA), [(task.x, task.y)]
    learner = Learner(
        DataLoaders(batches, batches), task.model, loss_func=CrossEntropyLossFlat(), cbs=mixup
    )
    learner.training = True
    mixup.before_train()

    def step() -> None:
        learner.xb, learner.yb = (task.x,), (task.y,)
        mixup.before_batch()
        task.descend(learner.loss_func(task.model(*learner.xb), *learner.yb))

    return step


def drawn_plans(batch: int) -> Iterator[MixPlan]:
    """Yield the plans that `ours` draws for the layers of the paper, from a model without cost."""
    small = nn.Sequential(OrderedDict((name, nn.Identity()) for name in PAPER[1:]))
    mixup = ManifoldMixup(small, PAPER, alpha=ALPHA, check=False, seed=0)
    x = torch.zeros(batch, 1)
    while True:
        small(x)
        assert mixup.plan is not None
        yield mixup.plan


def _formula(state: Tensor, plan: MixPlan) -> Tensor:
    return plan.lam * state + (1 - plan.lam) * state[plan.perm]


def _pair_loss(output: Tensor, y: Tensor, plan: MixPlan) -> Tensor:
    own, partner = cross_entropy(output, y), cross_entropy(output, y[plan.perm])
    return plan.lam * own + (1 - plan.lam) * partner
