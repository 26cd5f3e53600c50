"""`evaluate`: the paper's test batteries on a trained model, as a JSON value."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manifold_mixup import find_layers
from manifold_mixup.lab import suggest
from manifold_mixup.lab.data import Data, as_input, shifted
from manifold_mixup.lab.evaluate import collapse, distance, off_data, outliers
from manifold_mixup.lab.evaluate.attacks import (
    SPACES,
    Attack,
    attack_all,
    authors_fgsm,
    one_step,
    pgd,
    std_of,
    without_gradient,
)
from manifold_mixup.lab.evaluate.autoattack import Budget, require_package
from manifold_mixup.lab.evaluate.calibration import calibration
from manifold_mixup.lab.evaluate.corruptions import CORRUPTIONS, Corruption, corrupt
from manifold_mixup.lab.evaluate.deform import DEFORMATIONS, Deformation, Interpolation, deform
from manifold_mixup.lab.evaluate.inference import device_of, in_eval_mode, logits
from manifold_mixup.lab.evaluate.interpolation import LAMS, interpolated_nll
from manifold_mixup.lab.evaluate.metrics import brier, error, nll, reliability, top_error
from manifold_mixup.lab.evaluate.neighbours import (
    Metric,
    NoFeatures,
    features,
    features_and_logits,
    knn_error,
    outputs_and_features,
)
from manifold_mixup.lab.evaluate.plane import SURE, input_plane
from manifold_mixup.lab.evaluate.robustness import SHARES, Robustness, chosen
from manifold_mixup.lab.evaluate.selective import risk_coverage
from manifold_mixup.lab.evaluate.spectra import (
    class_spectra,
    classifier_of,
    flatness,
    seen_share,
    variance_within,
)
from manifold_mixup.lab.evaluate.statistics import binomial_interval
from manifold_mixup.lab.evaluate.temperature import HALF, NoTemperature, twofold

UNITS = {
    "error": "% of the test set",
    "errors": "% of the images, at severity 1 to 5",
    "top5_error": "% of the test set",
    "accuracy": "% of the test set",
    "error_low": "%, low end of the 95 % interval of Clopper and Pearson for an error",
    "error_high": "%, high end of that interval",
    "low": "%, low end of the 95 % interval of Clopper and Pearson for an accuracy",
    "high": "%, high end of that interval",
    "survived": "images that are predicted right under attack",
    "images": "images that are attacked, or predicted at each severity",
    "only_apgd": "images that APGD breaks and Square does not",
    "only_square": "images that Square breaks and APGD does not",
    "nll": "nats",
    "ece": "%, 15 bins of equal width",
    "ece_if_calibrated": "%, mean ECE if predictions with the same confidences were calibrated",
    "rms_gap": "%, root of the debiased mean squared gap, 15 bins of equal mass; none seen below 0",
    "rms_low": "%, low end of the 95 % interval of rms_gap",
    "rms_high": "%, high end of the 95 % interval of rms_gap",
    "adaptive_ece": "%, 15 bins of equal mass",
    "classwise_ece": "%, 15 bins of equal width for each class, mean over classes",
    "temperatures": "what the logits of the first and the second half are divided by",
    "brier": "squared distance, 0 to 2",
    "aurc": "%, mean error among the k most confident predictions over all k",
    "best_aurc": "%, that of the best order of the same predictions",
    "excess_aurc": "%, aurc - best_aurc",
    "coverage": "share of predictions that are made",
    "risk": "% of these predictions, in error",
    "auroc": "%, 50 is guessing",
    "fpr95": "% of the unknown inputs",
    "lam": "share of the example itself",
    "s1": "singular value of a class's states, mean over classes",
    "rest": "sum of the other singular values, mean over classes",
    "s1_share": "% of the sum of the singular values",
    "outside": "% of their squares, without the first",
    "within": "% of the variance of all states, within classes",
    "second": "% of the variance of all states, along the second direction of each class",
    "confident": "% of the plane where the greatest softmax is above 0.95",
    "values": "singular values, mean over classes",
    "greatest": "mean of the greatest softmax, 0 to 1",
    "sure": "% of the inputs whose greatest softmax is above 0.95",
    "inputs": "number of inputs",
    "fewest": "test examples of the smallest class",
    "dimensions": "dimensions of a state",
    "nc1": "variance within classes against that between them, 0 if collapsed",
    "nc2_norms": "deviation of the class means' norms over their mean, 0 if collapsed",
    "nc2_angles": "deviation of the class means' cosines, 0 if collapsed",
    "nc2_maximal": "mean distance of these cosines to -1 / (classes - 1), 0 if collapsed",
    "nc3": "squared distance of classifier and class means, both of norm 1, 0 to 4",
    "nc4": "% of the examples whose nearest class mean is not the decision",
    "seen": "% of the variance within classes, in the row space of the classifier",
}

FEATURES = "features"
"""The layer name that stands for the input of the last linear layer."""

Row = dict[str, Any]
Job = tuple[str, Callable[[], Row]]


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


def evaluate(
    model: nn.Module,
    data: Data,
    *,
    battery: Sequence[str] | None = None,
    settings: Settings | None = None,
    outputs: Tensor | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Run a battery of tests on the test set of a task.

    The model may be any that returns logits for ``data.x_test``. It is evaluated on its device in
    eval mode. Its mode, gradients and running statistics are restored.

    Args:
        model: the model.
        data: the data; the training set is used for the neighbours and the distances of outliers.
        battery: names in `PARTS`; ``None`` for all that suit the data, except `ON_REQUEST`. Only
            images can be deformed or corrupted.
        settings: the settings of the tests.
        outputs: the logits of ``data.x_test``, if they are known. Parts in `OF_LOGITS` then do not
            run the model.
        progress: called after each row with the number of finished rows, of all rows, and the name
            of the row.

    Returns:
        A JSON value: ``data``, ``examples``, ``seed``, ``units``, and for each part a list of rows,
        each with a ``name``, its numbers and its settings.

    Raises:
        ValueError: there is no such part, or it does not suit the data.
    """
    parts = battery_of(battery, data)
    subject = _Subject(
        model, data, settings or Settings(), distances="outliers" in parts, outputs=outputs
    )
    result: dict[str, Any] = {
        "data": data.name,
        "examples": len(data.x_test),
        "seed": subject.settings.seed,
        "units": UNITS,
        **{part: [] for part in parts},
    }
    with in_eval_mode(model):
        jobs = [(part, *job) for part in parts for job in PARTS[part](subject)]
        for done, (part, name, job) in enumerate(jobs, start=1):
            result[part].append({"name": name, **job()})
            progress(done, len(jobs), f"{part}: {name}")
    return result


class _Outputs(NamedTuple):
    """Logits, and the scores by distance of the same pass, if those are wanted."""

    logits: Tensor
    scores: Tensor | None


@dataclass(frozen=True)
class _Subject:
    """A model with its test set, and the outputs that several parts use.

    With ``distances``, each pass also scores the inputs by their distance to the training set.
    ``outputs`` are the logits of the test set, if they are known.
    """

    model: nn.Module
    data: Data
    settings: Settings
    distances: bool
    outputs: Tensor | None = None
    _deformed: dict[Deformation, _Outputs] = field(default_factory=dict)

    @cached_property
    def y(self) -> Tensor:
        return self.data.y_test.to(device_of(self.model, self.data.x_test))

    @cached_property
    def clean(self) -> Tensor:
        """The logits of the test set."""
        if self.outputs is not None:
            return self.outputs.to(self.y.device)
        return self.tested.logits

    @cached_property
    def tested(self) -> _Outputs:
        """The outputs for the test set."""
        return self.read(self.data.x_test)

    @cached_property
    def bank(self) -> distance.Bank | str:
        """The features of training examples, or why the model has none."""
        x = distance.drawn(self.data.x, generator=self.generator())
        try:
            return distance.bank(features(self.model, x, layer=self.settings.features))
        except NoFeatures as error:
            return f"no distances: {error}"

    @torch.inference_mode()
    def read(self, x: Tensor) -> _Outputs:
        """Return the outputs for many inputs."""
        if not self.distances or isinstance(self.bank, str):
            return _Outputs(logits(self.model, x), None)
        found = [
            (output, self.bank.score(states))
            for output, (states,) in outputs_and_features(
                self.model, x, layers=[self.settings.features]
            )
        ]
        return _Outputs(*map(torch.cat, zip(*found, strict=True)))

    def deformed(self, deformation: Deformation) -> _Outputs:
        """The outputs for the deformed test set."""
        if deformation not in self._deformed:
            x = deform(
                self.data.x_test,
                deformation,
                generator=self.generator(),
                interpolation=self.settings.interpolation,
                fill=self.settings.fill,
            )
            self._deformed[deformation] = self.read(x)
        return self._deformed[deformation]

    @property
    def images(self) -> bool:
        return _are_images(self.data)

    @cached_property
    def attacked(self) -> Robustness:
        """The test examples that are attacked with APGD and Square."""
        data, budget = self.data, self.settings.budget
        rows = chosen(len(data.x_test), budget.images, generator=self.generator())
        device = self.y.device
        return Robustness(
            self.model,
            as_input(data.x_test[rows].to(device)),
            self.y[rows.to(device)],
            eps=data.eps,
            bounds=data.bounds,
            budget=budget,
            seed=self.settings.seed,
        )

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.settings.seed)


def _clean(subject: _Subject) -> Iterator[Job]:
    def row() -> Row:
        clean, y = subject.clean, subject.y
        bins = reliability(clean, y)
        return {
            "error": error(clean, y),
            "top5_error": top_error(clean, y, k=5),
            "nll": nll(clean, y),
            "ece": bins.ece,
            "brier": brier(clean, y),
            "reliability": {name: list(values) for name, values in asdict(bins).items()},
        }

    yield "test set", row


def _calibration(subject: _Subject) -> Iterator[Job]:
    def errors(scaled: Tensor) -> Row:
        found = asdict(calibration(scaled, subject.y, generator=subject.generator()))
        bins = {name: list(values) for name, values in found["reliability"].items()}
        return found | {"reliability": bins}

    def before() -> Row:
        return errors(subject.clean)

    def after() -> Row:
        try:
            scaled = twofold(subject.clean, subject.y, generator=subject.generator())
        except NoTemperature as error:
            return {"note": f"no temperature: {error}"}
        said = "twofold over the test set: each half is divided by the temperature of the other"
        temperatures = list(scaled.temperatures)
        return {"fitted": said, "temperatures": temperatures, **errors(scaled.logits)}

    yield "before scaling", before
    yield "after scaling", after


def _selective(subject: _Subject) -> Iterator[Job]:
    def row() -> Row:
        sure = outliers.confidence(subject.clean)
        found = asdict(risk_coverage(sure, subject.clean.argmax(1) != subject.y))
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in found.items()
        }

    yield "test set", row


def _attacks(subject: _Subject) -> Iterator[Job]:
    settings, data = subject.settings, subject.data

    def row(attack: Attack) -> Row:
        x = attack_all(
            subject.model,
            data.x_test,
            data.y_test,
            attack,
            bounds=data.bounds,
            std=settings.std,
            generator=subject.generator(),
        )
        done = replace(attack, clipped=attack.clipped and data.bounds is not None)
        space = _space(attack, data)
        return {
            "accuracy": 100 - error(logits(subject.model, x), subject.y),
            "stated": done.stated(space),
            **asdict(done),
            "space": space,
            **_blind(subject, attack),
        }

    chosen = _usual_attacks(subject) if settings.attacks is None else settings.attacks
    for attack in chosen:
        yield attack.name, partial(row, attack)


def _strength(subject: _Subject) -> Iterator[Job]:
    """FGSM from ε = 0 to twice the ε of the data."""
    data = subject.data

    def row() -> Row:
        eps = [share * data.eps for share in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)]
        accuracy = [100 - error(subject.clean, subject.y)]
        for one in eps[1:]:
            x = attack_all(
                subject.model, data.x_test, data.y_test, one_step(one), bounds=data.bounds
            )
            accuracy.append(100 - error(logits(subject.model, x), subject.y))
        found = {"eps": eps, "accuracy": accuracy, "space": data.space}
        return found | _blind(subject, one_step(data.eps))

    yield "FGSM", row


def _blind(subject: _Subject, attack: Attack) -> Row:
    """Return a note if correct examples have no gradient that an attack could follow."""
    data = subject.data
    blind = without_gradient(subject.model, data.x_test, data.y_test, attack)
    right = subject.clean.argmax(1) == subject.y
    count = int((blind & right).sum())
    if not count:
        return {}
    return {
        "note": f"{attack.name}: the gradient is zero or NaN on {count} of the {int(right.sum())} "
        f"examples that are predicted right. Steps along it lead nowhere, so they may count as "
        f"withstanding it, and the accuracy is no measure of robustness."
    }


def _robustness(subject: _Subject) -> Iterator[Job]:
    """APGD and Square with the ε of the data, and the checks for masked gradients."""
    found, data, budget = subject.attacked, subject.data, subject.settings.budget
    by_apgd = {"eps": data.eps, "space": data.space, "steps": budget.steps}
    of_starts = by_apgd | {"restarts": budget.restarts}
    by_square = {"eps": data.eps, "space": data.space, "queries": budget.queries}
    yield "no attack", lambda: found.row(found.right, white=False)
    yield "APGD", lambda: found.row(found.by_apgd, white=True) | of_starts
    if subject.images:
        yield "Square", lambda: found.row(found.by_square, white=False) | by_square
        yield (
            "APGD and Square",
            lambda: (
                found.row(found.by_apgd & found.by_square, white=True)
                | found.compared()
                | of_starts
                | by_square
            ),
        )
    yield "APGD without a bound", lambda: found.free_row() | by_apgd | {"eps": None}


def _apgd(subject: _Subject) -> Iterator[Job]:
    """APGD from ε = 0 to twice the ε of the data."""
    found, data = subject.attacked, subject.data

    def row() -> Row:
        pairs = zip(SHARES, found.at_shares, strict=True)
        rows = [found.row(survives, white=share > 0) for share, survives in pairs]
        notes = [one["note"] for one in rows if "note" in one]
        return {
            "eps": [share * data.eps for share in SHARES],
            **{key: [one[key] for one in rows] for key in ("accuracy", "low", "high")},
            "images": len(found.y),
            "space": data.space,
            **({"note": notes[0]} if notes else {}),
        }

    yield "APGD", row


def _usual_attacks(subject: _Subject) -> tuple[Attack, ...]:
    eps = subject.data.eps
    usual = one_step(eps), pgd(eps)
    known = subject.settings.std is not None or std_of(subject.model) is not None
    return (*usual, authors_fgsm()) if known else usual


def _space(attack: Attack, data: Data) -> str:
    return data.space if attack.space == "data" else SPACES[attack.space]


def _deformations(subject: _Subject) -> Iterator[Job]:
    settings = subject.settings

    def row(deformation: Deformation) -> Row:
        fill = settings.fill
        return {
            "accuracy": 100 - error(subject.deformed(deformation).logits, subject.y),
            "interpolation": settings.interpolation,
            "fill": fill if isinstance(fill, int | float) else list(fill),
        }

    for deformation in settings.deformations:
        yield str(deformation), partial(row, deformation)


def _corruptions(subject: _Subject) -> Iterator[Job]:
    def row(corruption: Corruption) -> Row:
        x = corrupt(subject.data.x_test, corruption, generator=subject.generator())
        return {
            "accuracy": 100 - error(logits(subject.model, x), subject.y),
            "amount": corruption.amount,
        }

    for corruption in subject.settings.corruptions:
        yield str(corruption), partial(row, corruption)


def _cifar_c(subject: _Subject) -> Iterator[Job]:
    """CIFAR-C: the mean over the benchmark's corruptions and severities, and each corruption."""
    files = subject.settings.cifar_c
    if files is None:
        raise ValueError(
            "the part 'cifar-c' needs the files of CIFAR-10-C or CIFAR-100-C: give their folder "
            "(--cifar-c FOLDER, or Settings(cifar_c=cifar_c(folder, data)))."
        )

    @cache
    def errors(kind: str) -> list[float]:
        y = files.labels.to(subject.y.device)
        return [error(logits(subject.model, x), y) for x in files.images(kind)]

    def row(kinds: Sequence[str], **more: Any) -> Row:
        by_severity = [fmean(column) for column in zip(*map(errors, kinds), strict=True)]
        return {
            "error": fmean(by_severity),
            "errors": by_severity,
            "images": len(files.labels),
            **more,
        }

    for kind in files.kinds:
        yield kind, partial(row, [kind], extra=kind in shifted.EXTRA)
    yield (
        "mCE",
        partial(row, shifted.CORRUPTIONS, stated="mean of 15 corruptions, unnormalised"),
    )


def _cifar_10_1(subject: _Subject) -> Iterator[Job]:
    """The error on new images, with its interval."""
    versions = subject.settings.cifar_10_1
    if not versions:
        raise ValueError(
            "the part 'cifar-10.1' needs the files of CIFAR-10.1: give their folder "
            "(--cifar-10-1 FOLDER, or Settings(cifar_10_1=cifar_10_1(folder, data)))."
        )

    def row(x: Tensor, y: Tensor) -> Row:
        wrong = int((logits(subject.model, x).argmax(1).cpu() != y).sum())
        low, high = binomial_interval(wrong, len(y))
        return {
            "error": 100 * wrong / len(y),
            "error_low": 100 * low,
            "error_high": 100 * high,
            "images": len(y),
        }

    for version, (x, y) in versions.items():
        yield version, partial(row, x, y)


def _outliers(subject: _Subject) -> Iterator[Job]:
    def row(kind: outliers.Kind | None, unknown: Callable[[], _Outputs]) -> Row:
        known, strange = subject.tested, unknown()
        found: Row = {"kind": kind} | {
            name: asdict(outliers.separation(score(known.logits), score(strange.logits)))
            for name, score in outliers.SCORES.items()
        }
        if isinstance(subject.bank, str) or known.scores is None or strange.scores is None:
            return found | {"note": subject.bank}
        by_distance = asdict(outliers.separation(known.scores, strange.scores))
        used = {"k": subject.bank.k, "examples": len(subject.bank.features)}
        layer = subject.settings.features or "input of the last linear layer"
        return found | {"distance": by_distance | used | {"layer": layer}}

    for name, kind, unknown in _unknown(subject):
        yield name, partial(row, kind, unknown)


def _unknown(
    subject: _Subject,
) -> Iterator[tuple[str, outliers.Kind | None, Callable[[], _Outputs]]]:
    """Yield the name and kind of each set of outliers with a function that returns its outputs."""
    data, settings = subject.data, subject.settings
    noise = outliers.noise(as_input(data.x_test), generator=subject.generator(), bounds=data.bounds)
    for name, x in settings.unknown.items():
        yield name, outliers.kind(data.name, name), partial(subject.read, x)
    for name, x in noise.items():
        yield name, "far", partial(subject.read, x)
    for deformation in settings.deformations if subject.images else ():
        yield str(deformation), "shifted", partial(subject.deformed, deformation)


def _neighbours(subject: _Subject) -> Iterator[Job]:
    model, data, settings = subject.model, subject.data, subject.settings

    def row() -> Row:
        train, test = (features(model, x, layer=settings.features) for x in (data.x, data.x_test))
        y = data.y.to(train.device)
        wrong = knn_error(train, y, test, subject.y, k=settings.k, metric=settings.metric)
        layer = settings.features or "input of the last linear layer"
        return {"error": wrong, "k": settings.k, "metric": settings.metric, "layer": layer}

    yield "nearest neighbours", row


def _interpolation(subject: _Subject) -> Iterator[Job]:
    model, data, settings = subject.model, subject.data, subject.settings

    def row(layer: str) -> Row:
        (curve,) = interpolated_nll(
            model,
            data.x_test,
            data.y_test,
            layers=[layer],
            lams=settings.lams,
            generator=subject.generator(),
        ).values()
        return {"lam": list(settings.lams), "nll": list(curve)}

    for layer in settings.layers or _default_layers(subject):
        yield layer, partial(row, layer)


def _default_layers(subject: _Subject) -> Sequence[str]:
    few = subject.data.x_test[:2].to(subject.y.device)
    return find_layers(subject.model, as_input(few)).default


def _spectra(subject: _Subject) -> Iterator[Job]:
    model, x, y = subject.model, subject.data.x_test, subject.y

    def found(states: Tensor) -> Row:
        spectra = {
            name: class_spectra(states, y, centred=name == "centred")
            for name in ("centred", "uncentred")
        }
        within, second = variance_within(states, spectra["centred"])
        return {"within": within, "second": second} | {
            name: asdict(flatness(of_class)) | {"values": of_class.mean(0).tolist()}
            for name, of_class in spectra.items()
        }

    def row(layer: str) -> Row:
        if layer != FEATURES:
            return found(features(model, x, layer=layer))
        states, head = features(model, x), classifier_of(model, x)
        return {"seen": seen_share(states, y, head.weight)} | found(states)

    def named(layer: str) -> Row:
        try:
            return row(layer)
        except ValueError as error:
            raise ValueError(f"spectrum of {layer!r}: {error}") from error

    settings = subject.settings
    for layer in settings.spectra or (*(settings.layers or _default_layers(subject)), FEATURES):
        if layer != "input":
            yield layer, partial(named, layer)


def _flatness(subject: _Subject) -> Iterator[Job]:
    """The spectra in three numbers, which also need no more examples than there are."""
    model, x, y = subject.model, subject.data.x_test, subject.y

    def row(layer: str) -> Row:
        states = features(model, x, layer=layer)
        centred = class_spectra(states, y, centred=True, complete=False)
        as_they_are = class_spectra(states, y, centred=False, complete=False)
        return {
            "outside": flatness(centred).outside,
            "within": variance_within(states, centred)[0],
            "s1_share": flatness(as_they_are).s1_share,
            "fewest": int(y.unique(return_counts=True)[1].min()),
            "dimensions": states.shape[1],
        }

    for layer in subject.settings.layers or _default_layers(subject):
        if layer != "input":
            yield layer, partial(row, layer)


def _confidence(subject: _Subject) -> Iterator[Job]:
    def row(found: Callable[[], Tensor]) -> Row:
        outputs = found()
        sure = outputs.double().softmax(1).amax(1) > SURE
        return {
            "greatest": off_data.greatest(outputs),
            "sure": 100 * sure.double().mean().item(),
            "inputs": len(outputs),
        }

    def off() -> Tensor:
        x = off_data.off_data(subject.data, generator=subject.generator())
        return logits(subject.model, x)

    yield "off the data", partial(row, off)
    yield "test set", partial(row, lambda: subject.clean)


def _collapse(subject: _Subject) -> Iterator[Job]:
    """Neural collapse of the training set, and of the test set against its training means."""
    model, data = subject.model, subject.data
    head = classifier_of(model, data.x_test).weight.detach()
    layers = [one for one in subject.settings.layers or _default_layers(subject) if one != "input"]

    @cache
    def states_of(name: str) -> tuple[list[Tensor], Tensor, Tensor]:
        x, y = (data.x, data.y) if name == "training" else (data.x_test, data.y_test)
        states, outputs = features_and_logits(model, x, layers=[*layers, None])
        return states, outputs.argmax(1), y.to(outputs.device)

    def row(k: int, name: str) -> Row:
        every, decided, y = states_of(name)
        known, _, of_known = states_of("training")
        return {
            **collapse.measured(every[k], y, head if k == len(layers) else None),
            "nc4": collapse.nearest_mismatch(
                every[k], collapse.class_means(known[k], of_known), decided
            ),
        }

    for k, layer in enumerate((*layers, FEATURES)):
        for name in ("training", "test"):
            yield f"{layer}, {name}", partial(row, k, name)


def _plane(subject: _Subject) -> Iterator[Job]:
    def row() -> Row:
        return {"confident": input_plane(subject.model, subject.data.x).confident}

    yield "inputs", row


PARTS: dict[str, Callable[[_Subject], Iterator[Job]]] = {
    "clean": _clean,
    "calibration": _calibration,
    "selective": _selective,
    "attacks": _attacks,
    "strength": _strength,
    "robustness": _robustness,
    "apgd": _apgd,
    "deformations": _deformations,
    "corruptions": _corruptions,
    "cifar-c": _cifar_c,
    "cifar-10.1": _cifar_10_1,
    "outliers": _outliers,
    "neighbours": _neighbours,
    "interpolation": _interpolation,
    "confidence": _confidence,
    "flatness": _flatness,
    "collapse": _collapse,
    "spectra": _spectra,
    "plane": _plane,
}
ON_REQUEST = ("spectra", "robustness", "apgd", "cifar-c", "cifar-10.1")
"""Parts that run only if they are named: they need many examples per class, minutes, or files."""

OF_LOGITS = ("clean", "calibration", "selective")
"""Parts that need the logits of the test set alone."""

BUDGETED = ("robustness", "apgd")
"""Parts with attacks that spend `Settings.budget`."""


def battery_of(battery: Sequence[str] | None, data: Data) -> tuple[str, ...]:
    """Return the parts that `evaluate` would run.

    Raises:
        ValueError: there is no such part, it does not suit the data, or it needs a package that is
            not installed.
    """
    if data.regression:
        raise ValueError(
            f"only classifiers can be evaluated, but {data.name} has numbers as targets. The "
            f"result of the run has its RMSE and R²."
        )
    if battery is None:
        return tuple(part for part in PARTS if part not in ON_REQUEST and not unfit(part, data))
    for part in battery:
        if part not in PARTS:
            raise ValueError(f"{suggest.unknown('part', part, PARTS)}.")
        if why := unfit(part, data):
            raise ValueError(f"{why}. Leave out {part!r}.")
    if set(battery) & set(BUDGETED):
        require_package()
    return tuple(dict.fromkeys(battery))


def unfit(part: str, data: Data) -> str:
    """Return why a part does not suit the data, or "" if it does."""
    but = f"but the inputs of {data.name} have shape {tuple(data.x_test.shape[1:])}"
    if part == "deformations" and not _are_images(data):
        return f"only images can be deformed, {but}"
    if part == "corruptions" and not (_are_images(data) and data.x_test.shape[1] in (1, 3)):
        return f"only images of one or three channels can be corrupted, {but}"
    if part == "plane" and data.x_test.shape[1:] != (2,):
        return f"only points in the plane can be drawn, {but}"
    if part in BUDGETED and not data.eps > 0:
        return f"there is no size of an attack on {data.name}: its eps is {data.eps}"
    if part == "calibration" and len(data.x_test) < 2 * HALF:
        return (
            f"a temperature is fitted on each half of the test examples, and needs {HALF} in each, "
            f"but {len(data.x_test)} examples of {data.name} are tested: {2 * HALF} are enough"
        )
    return ""


def _are_images(data: Data) -> bool:
    return data.x_test.ndim == 4
