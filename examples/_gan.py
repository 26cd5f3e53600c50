"""Two small networks for images of 8x8 pixels: one makes them, the other detects the made ones."""

from collections import OrderedDict

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

NOISE = 16


def generator():
    """Return a network that makes images, ``(count, 1, 8, 8)``, of noise, ``(count, 16)``."""
    up = {"kernel_size": 4, "stride": 2, "padding": 1}
    return nn.Sequential(
        *(nn.Linear(NOISE, 128), nn.Unflatten(1, (32, 2, 2)), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 16, **up), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.ConvTranspose2d(16, 1, **up), nn.Tanh()),
    )


def discriminator():
    """Return a network whose logits, ``(count,)``, are high for real images."""
    stages = OrderedDict(stage1=stage(1, 16, 1), stage2=stage(16, 32, 2), stage3=stage(32, 32, 2))
    head = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(128, 1)), nn.Flatten(0))
    return nn.Sequential(stages | OrderedDict(head=head))


def stage(channels, out, stride):
    """Return a convolution whose spectral norm is 1 (Miyato et al., 2018)."""
    convolution = nn.Conv2d(channels, out, 3, stride=stride, padding=1)
    return nn.Sequential(spectral_norm(convolution), nn.LeakyReLU(0.1))
