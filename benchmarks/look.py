"""The time to look at a model, and the operators that a look runs on stand-ins."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from manifold_mixup import find_layers

# One model of each of fourteen families, with its input size where that is not 224.
FAMILIES = {
    "resnet50": 224,
    "densenet201": 224,
    "efficientnet_b0": 224,
    "mobilenetv3_large_100": 224,
    "regnety_016": 224,
    "inception_v4": 299,
    "nasnetalarge": 331,
    "convnext_tiny": 224,
    "vit_small_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "pvt_v2_b1": 224,
    "mixer_s16_224": 224,
    "maxvit_tiny_rw_224": 224,
    "xcit_tiny_12_p16_224": 224,
}


def measure(families: int, rounds: int) -> dict[str, dict[str, float]]:
    """Measure looks at timm's models, each with a batch of two images.

    Args:
        families: how many of the families.
        rounds: how often each model is looked at, in addition to the first time.

    Returns:
        For each model the processor seconds of the first look and the median of the others; the
        operators of a plain forward pass in train mode and those of a look, and the modules.
    """
    import timm

    seconds(lambda: find_layers(nn.Linear(2, 2), torch.ones(2, 2)))  # imports what it needs
    found = {}
    for name, size in list(FAMILIES.items())[:families]:
        model = timm.create_model(name, num_classes=10).train()
        images = torch.randn(2, 3, size, size)
        look = lambda model=model, images=images: find_layers(model, images)  # noqa: E731
        first, *others = [seconds(look) for _ in range(1 + rounds)]
        found[name] = {
            "first": first,
            "again": statistics.median(others or [first]),
            "plain": operators(lambda model=model, images=images: model(images)),
            "looked": looked_at(model, images),
            "modules": len(list(model.modules())),
        }
    return found


def seconds(run: Callable[[], Any]) -> float:
    """Return the processor time of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def operators(run: Callable[[], Any]) -> int:
    """Count the operators that code dispatches."""
    with _Count() as count:
        run()
    return count.operators


def looked_at(model: nn.Module, batch: Tensor) -> int:
    """Count the operators that a look runs on stand-ins, in all its passes together."""
    from manifold_mixup._dry_run.neutral import DEVICE
    from manifold_mixup._structure.record import Recorder

    ran = [0]
    theirs = Recorder.__torch_dispatch__

    def counted(self: Any, func: Any, *call: Any) -> Any:
        ran[0] += func is not DEVICE  # PyTorch asks for the device of stand-ins all the time
        return theirs(self, func, *call)

    Recorder.__torch_dispatch__ = counted  # type: ignore[method-assign]
    try:
        find_layers(model, batch)
    finally:
        Recorder.__torch_dispatch__ = theirs  # type: ignore[method-assign]
    return ran[0]


class _Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        return func(*args, **(kwargs or {}))
