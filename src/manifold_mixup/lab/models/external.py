"""Models of timm and torchvision by name, fitted to small images."""

import importlib
from collections import OrderedDict
from typing import Any

from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.standardize import Standardize
from manifold_mixup.lab.suggest import nearest

SMALL = 64
"""Images with fewer pixels a side get a stem that keeps their resolution."""


def build(data: Data, name: str, *, dropout: float) -> nn.Module:
    """Build ``net``, a model of another library with fresh weights.

    Args:
        data: the images it is to classify.
        name: ``"timm:NAME"`` or ``"torchvision:NAME"``.
        dropout: as the model itself understands it.

    Raises:
        ValueError: there is no such model, or the data are no images.
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
    """Raise unless a library has a model of this name.

    Raises:
        ValueError: it has not, or is not installed; the message names the nearest.
    """
    library, _, model = name.partition(":")
    known = _names(library)
    if model not in known:
        hint = nearest(model, known, count=3, prefix=f"{library}:")
        listed = f"{'timm' if library == 'timm' else 'torchvision.models'}.list_models()"
        raise ValueError(
            f"{library} has no model {model!r}.{hint} It has {len(known)}, which {listed} lists."
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
    # Transformers are built for one size, with patches in proportion; networks of convolutions
    # know neither argument.
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
        convs = ((place, m) for place, m in net.named_modules() if isinstance(m, nn.Conv2d))
        place, conv = next(convs)
        _put(net, place, _like(conv, in_channels=data.x.shape[1]))
    return net


def _keep_resolution(net: nn.Module) -> None:
    """Take the strides out of a stem that is made for images of 224 pixels.

    The first convolution, if it strides, takes a 3 x 3 window (patches: 1 x 1) at every place, and
    a max pooling right after it goes. Transformers were given smaller patches before.
    """
    windows = [
        (place, module)
        for place, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d)
    ]
    place, conv = windows[0] if windows else ("", None)
    if not isinstance(conv, nn.Conv2d) or conv.stride[0] == 1 or _is_patches(net, place):
        return
    window = 1 if conv.stride == conv.kernel_size else 3
    _put(net, place, _like(conv, kernel_size=window, stride=1, padding=window // 2))
    if len(windows) > 1 and isinstance(windows[1][1], nn.MaxPool2d):
        _put(net, windows[1][0], nn.Identity())


def _is_patches(net: nn.Module, place: str) -> bool:
    """Say whether a convolution cuts the patches of a transformer or mixer."""
    parent, _, name = place.rpartition(".")
    return "PatchEmbed" in type(net.get_submodule(parent)).__name__ or name == "conv_proj"


def _like(conv: nn.Conv2d, **changes: Any) -> nn.Conv2d:
    kept: dict[str, Any] = {
        name: getattr(conv, name)
        for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    }
    return nn.Conv2d(**(kept | changes), bias=conv.bias is not None)


def _put(net: nn.Module, place: str, module: nn.Module) -> None:
    parent, _, name = place.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
