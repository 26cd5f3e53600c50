"""The settings of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from manifold_mixup.lab.data import shifted
from manifold_mixup.lab.evaluate.attacks import (
    Attack,
)
from manifold_mixup.lab.evaluate.autoattack import Budget
from manifold_mixup.lab.evaluate.corruptions import CORRUPTIONS, Corruption
from manifold_mixup.lab.evaluate.deform import DEFORMATIONS, Deformation, Interpolation
from manifold_mixup.lab.evaluate.interpolation import LAMS
from manifold_mixup.lab.evaluate.neighbours import (
    Metric,
)


@dataclass(frozen=True)
class Settings:
    """The settings of `evaluate`, which are stored with its result.

    Attributes:
        seed: the seed. Every row starts from it, so rows do not depend on each other.
        budget: what the attacks of the parts ``robustness`` and ``apgd`` may spend.
        attacks: the attacks; ``None`` for FGSM and PGD-20 at the ε of the data and, if the model's
            standardisation is known, the authors' FGSM at ε = 0.03.
        std: the standard deviation that the model divides its inputs by; see `perturb`.
        deformations: the rows of Table 9 to compute.
        interpolation: as for `deform`.
        fill: as for `deform`.
        corruptions: the corruptions, for images of one or three channels.
        cifar_c: the files of CIFAR-10-C or CIFAR-100-C, which the part ``cifar-c`` needs.
        cifar_10_1: images and labels of CIFAR-10.1 by version, which ``cifar-10.1`` needs.
        unknown: further outliers by name, uint8 or floating point. Noise and the deformed test set
            are always included.
        features: the layer whose features are searched for neighbours, and whose distances score
            outliers; see `features`.
        k: the number of neighbours.
        metric: the distance of the neighbours.
        layers: the layers at which states are interpolated; ``None`` for those that `find_layers`
            chooses.
        spectra: the layers whose spectra are computed, ``"features"`` for the input of the last
            linear layer; ``None`` for ``layers`` without the input, and the features.
        lams: the values of λ on the curves.
    """

    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    attacks: tuple[Attack, ...] | None = None
    std: float | Sequence[float] | None = None
    deformations: tuple[Deformation, ...] = DEFORMATIONS
    interpolation: Interpolation = "nearest"
    fill: float | Sequence[float] = 0.0
    corruptions: tuple[Corruption, ...] = CORRUPTIONS
    cifar_c: shifted.CifarC | None = None
    cifar_10_1: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    unknown: Mapping[str, Tensor] = field(default_factory=dict)
    features: str | None = None
    k: int = 5
    metric: Metric = "euclidean"
    layers: Sequence[str] | None = None
    spectra: Sequence[str] | None = None
    lams: Sequence[float] = LAMS
