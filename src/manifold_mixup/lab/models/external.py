"""Models of timm and torchvision by name, adapted to small images."""

import importlib
from collections import OrderedDict
from typing import Any

from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.standardize import Standardize
from manifold_mixup.lab.suggest import nearest

SMALL = 64
"""For images with fewer pixels per side, the stem is changed to keep their resolution."""


def build(data: Data, name: str, *, dropout: float) -> nn.Module:
    """Build a model of another library, untrained, as ``net`` behind a standardising module.

    Args:
        data: the images to classify.
        name: ``"timm:NAME"`` or ``"torchvision:NAME"``.
        dropout: passed to the model as its own dropout argument.

    Raises:
        ValueError: there is no such model, or the data are not images.
    """
    library, _, model = name.partition(":")
    check_name(name)
    if data.x.ndim != 4:
        raise ValueError(f"{name} takes images, but the inputs of {data.name} are vectors.")
    make = _timm if library == "timm" else _torchvision
    net = make(model, data, dropout)
    if data.x.shape[-1] < SMALL:
        _keep_resolution(net)
    return nn.Sequential(OrderedDict(standardize=Standardize(data), net=net))


def check_name(name: str) -> None:
    """Check that a library has a model of this name.

    Raises:
        ValueError: the library has no such model, or is not installed.
    """
    library, _, model = name.partition(":")
    known = _names(library)
    if model not in known:
        hint = nearest(model, known, count=3, prefix=f"{library}:")
        listed = f"{'timm' if library == 'timm' else 'torchvision.models'}.list_models()"
        raise ValueError(
            f"{library} has no model {model!r}.{hint} It has {len(known)} models; {listed} lists "
            "them."
        )


def _names(library: str) -> list[str]:
    if library == "timm":
        try:
            return list(importlib.import_module("timm").list_models())
        except ImportError:
            raise ValueError("timm is not installed. Install it with: pip install timm") from None
    models = importlib.import_module("torchvision.models")
    return list(models.list_models(module=models))


def _timm(name: str, data: Data, dropout: float) -> nn.Module:
    import timm

    side = data.x.shape[-1]
    general: dict[str, Any] = {
        "num_classes": data.classes,
        "in_chans": data.x.shape[1],
        "drop_rate": dropout,
    }
    # Transformers are built for one image size, with patches in proportion; convolutional networks
    # take neither argument.
    for sized in ({"img_size": side, "patch_size": max(side // 8, 1)}, {"img_size": side}, {}):
        try:
            options: dict[str, Any] = general | sized
            return timm.create_model(name, **options)
        except TypeError:
            if not sized:
                raise
    raise AssertionError("unreachable")


def _torchvision(name: str, data: Data, dropout: float) -> nn.Module:
    from torchvision import models

    options: dict[str, Any] = {"num_classes": data.classes}
    if name.startswith("vit"):
        options["image_size"] = data.x.shape[-1]
    if dropout:
        options["dropout"] = dropout
    net: nn.Module = models.get_model(name, weights=None, **options)
    if data.x.shape[1] != 3:
        convs = ((name, m) for name, m in net.named_modules() if isinstance(m, nn.Conv2d))
        first, conv = next(convs)
        _replace(net, first, _copy_with(conv, in_channels=data.x.shape[1]))
    return net


def _keep_resolution(net: nn.Module) -> None:
    """Remove the strides of a stem that was made for images of 224 pixels.

    A first convolution with a stride becomes 3 x 3 with stride 1 (1 x 1 if it cuts patches), and a
    max pooling right after it is removed. Transformers are left out: `_timm` and `_torchvision`
    build them for the size of the images.
    """
    windows = [
        (name, module)
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d)
    ]
    first, conv = windows[0] if windows else ("", None)
    if not isinstance(conv, nn.Conv2d) or conv.stride[0] == 1 or _is_patches(net, first):
        return
    window = 1 if conv.stride == conv.kernel_size else 3
    _replace(net, first, _copy_with(conv, kernel_size=window, stride=1, padding=window // 2))
    if len(windows) > 1 and isinstance(windows[1][1], nn.MaxPool2d):
        _replace(net, windows[1][0], nn.Identity())


def _is_patches(net: nn.Module, path: str) -> bool:
    """Return whether a convolution cuts the patches of a transformer or mixer."""
    parent, _, name = path.rpartition(".")
    return "PatchEmbed" in type(net.get_submodule(parent)).__name__ or name == "conv_proj"


def _copy_with(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    settings: dict[str, Any] = {
        name: getattr(conv, name)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    }
    return nn.Conv2d(**(settings | changes), bias=conv.bias is not None)


def _replace(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
