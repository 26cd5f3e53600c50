"""Small convolutional networks: one for signals and images, one for rendered digits."""

from collections import OrderedDict

from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.standardize import Standardize


def cnn(data: Data, *, width: int | None, dropout: float) -> nn.Module:
    """Build three stages ``stage1 … stage3``, then average pooling and ``head``.

    A stage is a convolution, batch norm and ReLU. The second and third stages halve the resolution
    and double the channels. Vectors are treated as one-channel signals.

    Args:
        data: the data to classify, for shape, scale and classes.
        width: channels of the first stage; ``None`` is 16.
        dropout: dropout probability of the pooled features.

    Raises:
        ValueError: the vectors are too short to be signals.
    """
    x, width = data.x, width or 16
    signal = x.ndim == 2
    if signal and x.shape[1] < 4:
        raise ValueError(
            f"a CNN expects images, or signals of at least 4 values, but {data.name} has vectors "
            f"of {x.shape[1]}. Use --model mlp, or other data."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["standardize"] = Standardize(data)
    if signal:
        layers["channel"] = nn.Unflatten(1, (1, x.shape[1]))
    stage = _stage_1d if signal else _stage_2d
    layers["stage1"] = stage(1 if signal else x.shape[1], width, stride=1)
    layers["stage2"] = stage(width, 2 * width, stride=2)
    layers["stage3"] = stage(2 * width, 4 * width, stride=2)
    layers["pool"] = nn.AdaptiveAvgPool1d(1) if signal else nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(4 * width, data.outputs)
    return nn.Sequential(layers)


def factor_cnn(data: Data, *, width: int | None) -> nn.Module:
    """Build the paper's network for rendered digits (appendix A): four strided convolutions.

    The stages ``stage1 … stage4`` are 5 × 5 convolutions with batch norm and LeakyReLU; then comes
    ``head``.

    Args:
        data: the images to classify.
        width: channels of the first stage, doubled by each later one; ``None`` is 32.
    """
    width = width or 32
    layers: OrderedDict[str, nn.Module] = OrderedDict(standardize=Standardize(data))
    channels, (height, breadth) = data.x.shape[1], data.x.shape[2:]
    for k in range(4):
        out = width * 2**k
        convolution = nn.Conv2d(channels, out, 5, stride=2, padding=2, bias=False)
        layers[f"stage{k + 1}"] = nn.Sequential(
            convolution, nn.BatchNorm2d(out), nn.LeakyReLU(0.02)
        )
        channels, height, breadth = out, (height + 1) // 2, (breadth + 1) // 2
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(channels * height * breadth, data.outputs)
    return nn.Sequential(layers)


def _stage_1d(channels: int, out: int, *, stride: int) -> nn.Module:
    convolution = nn.Conv1d(channels, out, 5, stride=stride, padding=2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(out), nn.ReLU())


def _stage_2d(channels: int, out: int, *, stride: int) -> nn.Module:
    convolution = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), nn.ReLU())
