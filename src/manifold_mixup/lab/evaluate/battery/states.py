"""Parts that look at hidden states."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache, partial

from torch import Tensor

from manifold_mixup import find_layers
from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.evaluate import collapse
from manifold_mixup.lab.evaluate.battery.subject import Job, Row, Subject
from manifold_mixup.lab.evaluate.interpolation import interpolated_nll
from manifold_mixup.lab.evaluate.neighbours import (
    features,
    features_and_logits,
    knn_error,
)
from manifold_mixup.lab.evaluate.spectra import (
    class_spectra,
    classifier_of,
    flatness,
    seen_share,
    variance_within,
)

FEATURES = "features"
"""The layer name that stands for the input of the last linear layer."""


def neighbours(subject: Subject) -> Iterator[Job]:
    """The error of a search for nearest neighbours among the features."""
    model, data, settings = subject.model, subject.data, subject.settings

    def row() -> Row:
        train, test = (features(model, x, layer=settings.features) for x in (data.x, data.x_test))
        y = data.y.to(train.device)
        wrong = knn_error(train, y, test, subject.y, k=settings.k, metric=settings.metric)
        layer = settings.features or "input of the last linear layer"
        return {"error": wrong, "k": settings.k, "metric": settings.metric, "layer": layer}

    yield "nearest neighbours", row


def interpolation(subject: Subject) -> Iterator[Job]:
    """The NLL between two test examples, mixed at each layer."""
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


def _default_layers(subject: Subject) -> Sequence[str]:
    examples = subject.data.x_test[:2].to(subject.y.device)
    return find_layers(subject.model, as_input(examples)).default


def spectra(subject: Subject) -> Iterator[Job]:
    """The singular values of each class's states at each layer."""
    model, x, y = subject.model, subject.data.x_test, subject.y

    def spectra_of(states: Tensor) -> Row:
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
            return spectra_of(features(model, x, layer=layer))
        states, head = features(model, x), classifier_of(model, x)
        return {"seen": seen_share(states, y, head.weight)} | spectra_of(states)

    def named(layer: str) -> Row:
        try:
            return row(layer)
        except ValueError as error:
            raise ValueError(f"spectrum of {layer!r}: {error}") from error

    settings = subject.settings
    for layer in settings.spectra or (*(settings.layers or _default_layers(subject)), FEATURES):
        if layer != "input":
            yield layer, partial(named, layer)


def layer_flatness(subject: Subject) -> Iterator[Job]:
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


def neural_collapse(subject: Subject) -> Iterator[Job]:
    """Neural collapse of the training set, and of the test set against its training means."""
    model, data = subject.model, subject.data
    head = classifier_of(model, data.x_test).weight.detach()
    layers = [
        layer for layer in subject.settings.layers or _default_layers(subject) if layer != "input"
    ]

    @cache
    def states_of(name: str) -> tuple[list[Tensor], Tensor, Tensor]:
        x, y = (data.x, data.y) if name == "training" else (data.x_test, data.y_test)
        states, outputs = features_and_logits(model, x, layers=[*layers, None])
        return states, outputs.argmax(1), y.to(outputs.device)

    def row(k: int, name: str) -> Row:
        states, decided, y = states_of(name)
        training_states, _, training_labels = states_of("training")
        return {
            **collapse.measured(states[k], y, head if k == len(layers) else None),
            "nc4": collapse.nearest_mismatch(
                states[k], collapse.class_means(training_states[k], training_labels), decided
            ),
        }

    for k, layer in enumerate((*layers, FEATURES)):
        for name in ("training", "test"):
            yield f"{layer}, {name}", partial(row, k, name)
