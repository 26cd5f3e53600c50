"""The settings of a run as a value, and the settings chosen for each comparison.

All methods differ only in the values of a `Recipe`. ``docs/compare.md`` explains how the values of
a comparison were chosen, always on part of the training set.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from manifold_mixup.lab.recipes import generated
from manifold_mixup.lab.recipes.ways import Way


@dataclass(frozen=True)
class Recipe:
    """All settings that determine the result of a training.

    Attributes:
        method: name in tables and reports; what is mixed depends on the layers alone.
        data: name of the data set, or a path; "list" prints all.
        model: name of the model; "list" prints all.
        weights: pretrained weights to start from: a file, for text-encoder a folder, or
            PACKAGE:PATH in an installed package.
        layers: layers to mix: none for no mixup, input for input mixup.
        alpha: parameter α of the Beta(α, α) distribution of λ.
        per_sample: draw a λ for every example instead of one per batch.
        p: share of the batches that are mixed.
        pairs: partners: any, same_class, other_class, or near in the target as in C-Mixup: near
            from the whole training set, near_in_batch from the batch.
        bandwidth: bandwidth of near pairs, in the units of the targets.
        label: share of the own label: lam for λ, or remix, which favours the rarer class.
        kappa: how many times rarer a class must be for remix.
        tau: share of the rarer class from which remix leaves the label at λ.
        blend: how two states are mixed: interpolate; cut, as CutMix; mix-or-cut, one of
            the two for each batch; patchup-soft or patchup-hard, in blocks; similarity, as
            SK-Mixup; or align, as AlignMixup.
        block: side of a block of PatchUp, odd.
        share: share of the state that PatchUp's blocks cover, about.
        tau_max: how strongly "similarity" mixes; greater is stronger.
        tau_std: how fast "similarity" mixes less with the distance; greater is slower.
        noise_add: size of noise that is added to the mixed state, as in noisy feature mixup.
        noise_multiply: size of noise by which the mixed state is multiplied.
        clean: train on the unmixed batch in the same pass too, as RegMixup.
        ict_weight: greatest weight of the consistency on unlabelled examples, as in ICT: those that
            examples, per_class and imbalance leave out. The averaged weights are the teacher.
        ict_ramp: share of the training over which that weight rises.
        pgd_steps: steps of a PGD attack on each training batch, for adversarial training; 0 for
            none.
        pgd_eps: size ε of that attack, in the units of the data; None for the data's own.
        block_gradient: stop the gradient of the mixed batch at the mixed layer, so that earlier
            layers do not learn from it.
        loss: loss function: cross_entropy, or softmax_bce as in the authors' code; mse for numbers
            as targets, in units of their variance.
        label_smoothing: share of the target that is spread evenly over the classes.
        epochs: passes over the training set.
        batch: examples per optimizer step.
        lr: peak learning rate.
        schedule: learning rate schedule. one-cycle warms up over the first tenth, then follows a
            cosine down to nearly 0; cosine has no warm-up; steps divides by ten at the milestones;
            constant keeps the learning rate.
        milestones: epochs after which the schedule "steps" divides the learning rate by ten.
        optimizer: the optimizer: adamw, adam, or sgd with Nesterov momentum 0.9 as in the paper.
        weight_decay: weight decay. Its effect differs between optimizers.
        ema: decay per step of averaged weights, which are then evaluated; 0 turns averaging off.
        width: units of a hidden layer, or channels of the first stage; None for the model's own.
        dropout: dropout probability, in models that have dropout.
        batch_norm: True adds batch norms to perceptrons, False removes the model's batch norms,
            None keeps the model as it is.
        noise: standard deviation of Gaussian noise on the standardised input.
        flip: mirror images at random.
        crop: maximal random shift of images in pixels, padded with zeros.
        cutout: side length of a random square that is blanked in every image.
        examples: number of training examples, a random subset; None takes all.
        per_class: number of training examples per class; None takes all.
        imbalance: how many times more examples the first class has than the last, with an
            exponential profile between them, of those that examples and per_class leave; 1 keeps
            all. The test set stays as it is.
        label_noise: share of the training labels, held-out ones too, that are another class, all
            others equally likely; drawn once for a seed. The test set stays clean.
        validation: share of the training set to hold out; it is evaluated after every epoch instead
            of the test set.
        every: epochs between evaluations; 0 evaluates only the final weights, which saves time
            where evaluation takes longer than training.
        precision: training precision: float32, or bf16 or fp16 with autocast.
        accumulate: number of parts a batch is split into, whose gradients are accumulated.
        compile: compile the model.
        cuda_graphs: record the compiled graphs as CUDA graphs, so that the GPU does not wait for
            Python.
        channels_last: store images in channels-last memory format.
        seed: seed of the initial weights, the order of the examples, and the mixing.
        device: device to train on.
    """

    method: str = "no mixup"
    data: str = "mnist-1d"
    model: str = "mlp"
    weights: str | None = None
    layers: tuple[str, ...] = ()
    alpha: float = 1.0
    per_sample: bool = False
    p: float = 1.0
    pairs: Literal["any", "same_class", "other_class", "near", "near_in_batch"] = "any"
    bandwidth: float = 1.0
    label: Literal["lam", "remix"] = "lam"
    kappa: float = 3.0
    tau: float = 0.5
    blend: Literal[
        "interpolate",
        "cut",
        "mix-or-cut",
        "patchup-soft",
        "patchup-hard",
        "similarity",
        "align",
    ] = "interpolate"
    block: int = 7
    share: float = 0.5
    tau_max: float = 1.0
    tau_std: float = 0.5
    noise_add: float = 0.0
    noise_multiply: float = 0.0
    clean: bool = False
    ict_weight: float = 0.0
    ict_ramp: float = 0.25
    pgd_steps: int = 0
    pgd_eps: float | None = None
    block_gradient: bool = False
    loss: Literal["cross_entropy", "softmax_bce", "mse"] = "cross_entropy"
    label_smoothing: float = 0.0
    epochs: int = 100
    batch: int = 100
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 3e-3
    schedule: Literal["one-cycle", "cosine", "steps", "constant"] = "one-cycle"
    milestones: tuple[int, ...] = ()
    weight_decay: float = 1e-2
    ema: float = 0.0
    width: int | None = 256
    dropout: float = 0.0
    batch_norm: bool | None = None
    noise: float = 0.0
    flip: bool = False
    crop: int = 0
    cutout: int = 0
    examples: int | None = None
    per_class: int | None = None
    imbalance: float = 1.0
    label_noise: float = 0.0
    validation: float = 0.0
    every: int = 1
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    accumulate: int = 1
    compile: bool = False
    cuda_graphs: bool = False
    channels_last: bool = False
    seed: int = 0
    device: str = "cpu"

    @property
    def regression(self) -> bool:
        """Whether the targets are numbers instead of classes."""
        return self.loss == "mse"


WAY = (
    "p", "pairs", "bandwidth", "label", "kappa", "tau", "blend", "block", "share", "tau_max",
    "tau_std", "noise_add", "noise_multiply", "clean",
    "ict_weight", "ict_ramp",
)  # fmt: skip
"""The settings of the way of mixing, beside the layers and α."""
_LATER = (*WAY, "imbalance", "label_noise", "pgd_steps", "pgd_eps", "weights", "every")
"""The settings that the first runs did not have."""


def way_settings(run: Recipe) -> dict[str, Any]:
    """Return the settings of a run's way of mixing that differ from the default."""
    usual = Recipe()
    return {name: getattr(run, name) for name in WAY if getattr(run, name) != getattr(usual, name)}


def identity(run: Recipe) -> dict[str, Any]:
    """Return the settings that identify a run.

    Later settings are left out at their default, so that older runs keep their identity.
    """
    usual = {field.name: field.default for field in fields(Recipe)}
    return {
        name: value
        for name, value in asdict(run).items()
        if name not in _LATER or value != usual[name]
    }


HIDDEN = {
    "mlp": ("input", "hidden1", "hidden2"),
    "cnn": ("input", "stage1", "stage2"),
    "factor-cnn": ("input", "stage1", "stage2"),
    **{f"preact-resnet{depth}": ("input", "layer1", "layer2") for depth in (18, 34, 50, 152)},
    **{f"wrn-28-{widen}": ("input", "layer1") for widen in (2, 10)},
    **{f"mnist-mlp-{kind}": ("bottleneck",) for kind in ("2", "12", "30", "30-early")},
    "spiral-mlp": ("bottleneck",),
}
"""The eligible layers S of each model, as in the paper: the input and the first stages, or the
bottleneck. For other models, `find_layers` chooses them."""

LAST = {
    "cnn": "stage3",
    "factor-cnn": "stage4",
    **{f"preact-resnet{depth}": "layer4" for depth in (18, 34, 50, 152)},
    **{f"wrn-28-{widen}": "layer3" for widen in (2, 10)},
}
"""The layer with the last map of each model, before the pooling."""

FOUND = ("found",)
"""Placeholder for the layers that `find_layers` chooses."""


def input_mixup(plain: Recipe, *, alpha: float = 0.2) -> Recipe:
    """Return the recipe with input mixup."""
    return replace(plain, method="input mixup", layers=("input",), alpha=alpha)


def manifold_mixup(plain: Recipe, *, alpha: float = 0.2) -> Recipe:
    """Return the recipe with manifold mixup at the model's eligible layers."""
    layers = HIDDEN.get(plain.model, FOUND)
    return replace(plain, method="manifold mixup", layers=layers, alpha=alpha)


BANDWIDTHS = {"california-housing": 3.0, "diabetes": 100.0}
"""The bandwidth of near pairs for single data sets, in the units of their targets, chosen on
validation splits (docs/lab.md)."""


def mixed(plain: Recipe, way: Way, *, alpha: float) -> Recipe:
    """Return the recipe with a way of mixing.

    Args:
        plain: the recipe without mixing.
        way: the way.
        alpha: α, unless the way's authors have their own.
    """
    layers = HIDDEN.get(plain.model, FOUND)
    layers_by_place = {
        "nowhere": (),
        "input": ("input",),
        "layers": layers,
        "last": ("input", LAST[plain.model]) if plain.model in LAST else layers,
    }
    own_alpha = way.alphas.get(plain.data, way.alpha)
    near = {"bandwidth": BANDWIDTHS.get(plain.data, plain.bandwidth)}
    return replace(
        plain,
        method=way.method,
        layers=layers_by_place[way.at],
        alpha=alpha if own_alpha is None else own_alpha,
        **{**way.makes, **way.defaults, **(near if way.makes.get("pairs") == "near" else {})},
    )


def three_methods(data: str, model: str) -> tuple[Recipe, ...]:
    """Return no mixup, input mixup and manifold mixup with the settings chosen for them."""
    chosen = {
        ("mnist-1d", "mlp"): _mnist1d_mlp,
        ("mnist-1d", "cnn"): _mnist1d_cnn,
        ("fashion-mnist", "mlp"): _fashion_mnist_mlp,
        ("fashion-mnist", "cnn"): _fashion_mnist_cnn,
        ("spirals", "spiral-mlp"): _spirals,
        ("spirals-100", "spiral-mlp"): _spirals,
    }
    recipes_for = chosen.get((generated.source(data), model))
    runs = _default_recipes(data, model) if recipes_for is None else recipes_for()
    return tuple(replace(run, data=data) for run in runs)


def _mnist1d_mlp() -> tuple[Recipe, ...]:
    plain = Recipe(lr=1e-1, batch=200, epochs=80, batch_norm=True)
    return plain, input_mixup(plain, alpha=0.1), manifold_mixup(plain)


def _mnist1d_cnn() -> tuple[Recipe, ...]:
    plain = Recipe(model="cnn", width=32, epochs=30, lr=3e-3)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _fashion_mnist_mlp() -> tuple[Recipe, ...]:
    plain = Recipe(data="fashion-mnist", epochs=20, lr=1e-3, examples=10_000)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _fashion_mnist_cnn() -> tuple[Recipe, ...]:
    plain = Recipe(data="fashion-mnist", model="cnn", width=16, epochs=10, lr=3e-3, examples=5_000)
    return plain, input_mixup(plain), manifold_mixup(plain)


def _spirals() -> tuple[Recipe, ...]:
    """Return what was frozen for the registered task "spirals" (``results/candidates``)."""
    plain = Recipe(data="spirals-100", model="spiral-mlp", width=64, epochs=800, weight_decay=0.0)
    return plain, input_mixup(plain, alpha=0.05), manifold_mixup(plain, alpha=2.0)


REGRESSIONS = ("california-housing", "diabetes")
"""The data sets with numbers as targets."""


def _default_recipes(data: str, model: str) -> tuple[Recipe, ...]:
    """Return settings for a data set and a model without chosen ones."""
    plain = Recipe(data=data, model=model, width=None, epochs=50, lr=1e-3)
    return plain, input_mixup(plain), manifold_mixup(plain)
