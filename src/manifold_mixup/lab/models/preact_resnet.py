"""Pre-activation ResNets as the paper trained them."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.models.standardize import Standardize


class _Block(nn.Module):
    """Several times norm, ReLU and convolution, added to a shortcut.

    If the shape changes, the shortcut is a convolution of the first activation (He et al.,
    Identity Mappings in Deep Residual Networks, 2016).
    """

    def __init__(
        self, channels: int, out: int, shapes: list[tuple[int, int, int]], stride: int
    ) -> None:
        super().__init__()
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        inside = channels
        for wide, kernel, step in shapes:
            self.norms.append(nn.BatchNorm2d(inside))
            self.convs.append(
                nn.Conv2d(inside, wide, kernel, step, padding=kernel // 2, bias=False)
            )
            inside = wide
        same = stride == 1 and channels == out
        self.shortcut = None if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norms[0](x))
        around = x if self.shortcut is None else self.shortcut(h)
        h = self.convs[0](h)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            h = conv(F.relu(norm(h)))
        result: Tensor = h + around
        return result


def _basic(channels: int, width: int, stride: int) -> _Block:
    return _Block(channels, width, [(width, 3, stride), (width, 3, 1)], stride)


def _bottleneck(channels: int, width: int, stride: int) -> _Block:
    shapes = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
    return _Block(channels, 4 * width, shapes, stride)


_KINDS = {
    18: (_basic, 1, (2, 2, 2, 2)),
    34: (_basic, 1, (3, 4, 6, 3)),
    50: (_bottleneck, 4, (3, 4, 6, 3)),
    152: (_bottleneck, 4, (3, 8, 36, 3)),
}
DEPTHS = tuple(_KINDS)


def preact_resnet(data: Data, *, depth: int, width: int | None, dropout: float) -> nn.Module:
    """Build ``conv1``, ``layer1 … layer4``, average pooling and ``head``.

    As in the authors' code, there is no norm after ``conv1`` or before the pooling. For images of
    64 pixels, ``conv1`` has stride 2.

    Args:
        data: the data to classify, for shape, scale and classes.
        depth: 18, 34, 50 or 152.
        width: channels of the first stage; ``None`` is 64.
        dropout: dropout probability of the pooled features.
    """
    block, expansion, counts = _KINDS[depth]
    width = width or 64
    stem = 2 if data.x.shape[-1] >= 64 else 1
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["standardize"] = Standardize(data)
    layers["conv1"] = nn.Conv2d(data.x.shape[1], width, 3, stem, padding=1, bias=False)
    channels = width
    for stage, count in enumerate(counts):
        inner, blocks = width * 2**stage, []
        for index in range(count):
            blocks.append(block(channels, inner, 2 if stage and not index else 1))
            channels = expansion * inner
        layers[f"layer{stage + 1}"] = nn.Sequential(*blocks)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(channels, data.classes)
    return nn.Sequential(layers)
