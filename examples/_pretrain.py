"""Pretrain the model that docs/examples.md fine-tunes, if timm's weights cannot be downloaded.

python examples/_pretrain.py DATA FILE     # reads CIFAR-100 in DATA, writes the weights to FILE
"""

import sys

import timm
import torch
from torch import nn
from torchvision.datasets import CIFAR100

EPOCHS, BATCH = 2, 100


def pretrain(root, file):
    """Train on CIFAR-100 with mirroring and shifts, and save the weights."""
    torch.manual_seed(0)
    data = CIFAR100(root, download=True)
    x = (torch.from_numpy(data.data).movedim(3, 1) / 255 - 0.45) / 0.225
    y = torch.tensor(data.targets)
    model = timm.create_model("test_resnet", num_classes=100)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    steps = EPOCHS * len(y) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps)
    for epoch in range(EPOCHS):
        right = 0
        for rows in torch.randperm(len(y)).split(BATCH):
            images = x[rows].flip(3) if torch.rand(()) < 0.5 else x[rows]
            shift = torch.randint(-3, 4, (2,)).tolist()
            output = model(images.roll(shift, (2, 3)))
            nn.functional.cross_entropy(output, y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            right += (output.argmax(1) == y[rows]).sum().item()
        print(f"epoch {epoch + 1}: training accuracy {right / len(y):.3f}", flush=True)
    torch.save(model.state_dict(), file)


if __name__ == "__main__":
    pretrain(*sys.argv[1:])
