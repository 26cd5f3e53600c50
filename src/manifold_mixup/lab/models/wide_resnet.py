"""Wide ResNets as the paper trained them (Zagoruyko and Komodakis, 2016)."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.standardize import Standardize


class _Block(nn.Module):
    """Two pre-activated convolutions, the second with the stride, added to a shortcut.

    As in the authors' code, and unlike in a PreActResNet, the convolution of the shortcut takes the
    raw input, and convolutions have biases.
    """

    def __init__(self, channels: int, out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.norm2, self.conv2 = nn.BatchNorm2d(out), nn.Conv2d(out, out, 3, stride, padding=1)
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(self.conv1(F.relu(self.norm1(x))))
        result: Tensor = self.conv2(F.relu(self.norm2(h))) + self.shortcut(x)
        return result


def wide_resnet(
    data: Data, *, depth: int, widen: int, width: int | None, dropout: float
) -> nn.Module:
    """Build ``conv1``, ``layer1 … layer3``, a last norm, average pooling and ``head``.

    Args:
        data: the data to classify, for shape, scale and classes.
        depth: number of convolutions on the longest path, 28 in the paper.
        widen: width relative to a ResNet.
        width: channels of the stem; ``None`` is 16.
        dropout: dropout probability between the convolutions of a block.
    """
    width = width or 16
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["standardize"] = Standardize(data)
    layers["conv1"] = nn.Conv2d(data.x.shape[1], width, 3, padding=1)
    channels = width
    for stage in range(3):
        out, blocks = width * widen * 2**stage, []
        for index in range((depth - 4) // 6):
            blocks.append(_Block(channels, out, 2 if stage and not index else 1, dropout))
            channels = out
        layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    # The authors' momentum, which makes the running statistics nearly those of the last batch.
    layers["norm"] = nn.Sequential(nn.BatchNorm2d(channels, momentum=0.9), nn.ReLU())
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(channels, data.classes)
    return nn.Sequential(layers)
