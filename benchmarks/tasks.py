"""The models of the benchmarks, each with a batch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLASSES = 10


@dataclass
class Task:
    """A model with its batch and optimizer.

    Attributes:
        model: the model, in training mode.
        x: the batch.
        layers: twelve layers that can be mixed, in order.
        y: labels.
    """

    model: nn.Module
    x: Tensor
    layers: tuple[str, ...]
    y: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        generator = torch.Generator().manual_seed(1)
        self.y = torch.randint(CLASSES, (len(self.x),), generator=generator).to(self.x.device)

    def logits(self) -> Tensor:
        """Return the logits of the batch."""
        output = self.model(self.x)
        return getattr(output, "logits", output)

    def loss(self) -> Tensor:
        """Return the loss of the batch without mixing."""
        return cross_entropy(self.logits(), self.y)

    def descend(self, loss: Tensor) -> None:
        """Run the backward pass and the optimizer."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def _images(batch: int, side: int, device: str) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device)


def resnet18(batch: int = 64, device: str = "cpu") -> Task:
    """Return torchvision's ResNet-18 for images of 32 x 32, whose stem keeps the resolution."""
    from torchvision.models import resnet18 as imagenet_resnet18

    torch.manual_seed(0)
    model = imagenet_resnet18(num_classes=CLASSES)
    model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    layers = (
        *("conv1", "bn1", "relu", "layer1.0", "layer1", "layer2.0", "layer2"),
        *("layer3.0", "layer3", "layer4.0", "layer4", "avgpool"),
    )
    return Task(model.to(device), _images(batch, 32, device), layers)


def wrn_28_2(batch: int = 32, device: str = "cpu") -> Task:
    """Return the lab's WRN-28-2 for images of 32 x 32."""
    from manifold_mixup.lab import models
    from manifold_mixup.lab.data import Data

    x = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    y = torch.zeros(2, dtype=torch.long)
    moments = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    data = Data("nothing", x, y, x, y, CLASSES, 8 / 255, "pixels", (0, 1), **moments)
    torch.manual_seed(0)
    model = models.build("wrn-28-2", data).to(device)
    layers = tuple(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(4))
    return Task(model, _images(batch, 32, device), layers)


def vit_s(batch: int = 16, device: str = "cpu") -> Task:
    """Return timm's ViT-S/16 for images of 64 x 64, that is 16 tokens."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", img_size=64, num_classes=CLASSES)
    layers = tuple(f"blocks.{block}" for block in range(12))
    return Task(model.to(device), _images(batch, 64, device), layers)


def bert(batch: int = 4, device: str = "cpu") -> Task:
    """Return a classifier of BERT-base's size for sentences of 64 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(num_labels=CLASSES, attn_implementation="eager")
    model = BertForSequenceClassification(config).to(device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(config.vocab_size, (batch, 64), generator=generator).to(device)
    return Task(model.train(), x, tuple(f"bert.encoder.layer.{block}" for block in range(12)))


def mlp(batch: int = 256, device: str = "cpu") -> Task:
    """Return a perceptron with twelve hidden layers of 512 units."""
    torch.manual_seed(0)
    hidden = [nn.Sequential(nn.Linear(512, 512), nn.ReLU()) for _ in range(12)]
    model = nn.Sequential(*hidden, nn.Linear(512, CLASSES)).to(device)
    x = torch.randn(batch, 512, generator=torch.Generator().manual_seed(0)).to(device)
    return Task(model, x, tuple(str(layer) for layer in range(12)))


TASKS: dict[str, Callable[..., Task]] = {
    "ResNet-18, 32 x 32": resnet18,
    "WRN-28-2, 32 x 32": wrn_28_2,
    "ViT-S, 16 tokens": vit_s,
    "BERT-base, 64 tokens": bert,
    "MLP, 12 x 512": mlp,
}
