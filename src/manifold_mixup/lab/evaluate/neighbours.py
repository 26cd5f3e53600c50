"""The error of k nearest neighbours on a model's features.

The paper reports it for the top-layer features of PreActResNet18 (section 5.1), but states neither
k nor the distance. Ours, k = 5 and Euclidean, are scikit-learn's defaults.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manifold_mixup.lab.evaluate.inference import device_of, in_eval_mode, inputs
from manifold_mixup.lab.suggest import nearest

Metric = Literal["euclidean", "cosine"]


class NoFeatures(RuntimeError, TypeError):
    """The layer did not run exactly once in a pass, or does not return a tensor."""


def mean_over_space(features: Tensor) -> Tensor:
    """Average ``(n, channels, *space)`` over space; return ``(n, features)`` unchanged."""
    return features.flatten(2).mean(2) if features.ndim > 2 else features


@torch.no_grad()
def features(
    model: nn.Module,
    x: Tensor,
    *,
    layer: str | None = None,
) -> Tensor:
    """Return the outputs of a layer for many inputs, in eval mode.

    Args:
        model: the model.
        x: inputs, ``(n, …)``, uint8 or floating point.
        layer: a name of ``model.named_modules()``; ``None`` for the input of the last linear layer
            that runs, the features that the model itself classifies.

    Returns:
        ``(n, features)``, on the model's device.

    Raises:
        ValueError: there is no such layer.
        NoFeatures: the layer did not run, or ran more than once in a pass, or does not return a
            tensor.
    """
    ((states,), _) = features_and_logits(model, x, layers=[layer])
    return states


def features_and_logits(
    model: nn.Module, x: Tensor, *, layers: Sequence[str | None]
) -> tuple[list[Tensor], Tensor]:
    """Return the `features` of several layers, and the logits, of one pass over many inputs."""
    parts = list(outputs_and_features(model, x, layers=layers))
    states = zip(*(states for _, states in parts), strict=True)
    return [torch.cat(of_layer) for of_layer in states], torch.cat([output for output, _ in parts])


@torch.no_grad()
def outputs_and_features(
    model: nn.Module, x: Tensor, *, layers: Sequence[str | None]
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield the model's outputs for each chunk of inputs, with the `features` of several layers."""
    with in_eval_mode(model), ExitStack() as stack:
        watched = [stack.enter_context(_watched(model, layer)) for layer in layers]
        for part in inputs(x, device=device_of(model, x)):
            for values in watched:
                values.clear()
            output = model(part)
            pairs = zip(watched, layers, strict=True)
            yield output, [mean_over_space(_single(*pair)).flatten(1) for pair in pairs]


@contextmanager
def _watched(model: nn.Module, layer: str | None) -> Iterator[list[object]]:
    """Yield a list to which hooks add the features of each forward pass."""
    values: list[object] = []
    if layer is None:
        heads = [module for module in model.modules() if isinstance(module, nn.Linear)]
        handles = [
            head.register_forward_pre_hook(lambda _, args: _keep(values, args)) for head in heads
        ]
    else:
        module = _named(model, layer)
        handles = [module.register_forward_hook(lambda _, args, output: values.append(output))]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


def _keep(values: list[object], args: tuple[object, ...]) -> None:
    values[:] = args[:1]


def _named(model: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if layer in modules:
        return modules[layer]
    hint = nearest(layer, modules, count=3)
    raise ValueError(f"{type(model).__name__} has no layer {layer!r}.{hint}")


def _single(values: list[object], layer: str | None) -> Tensor:
    what = "the last linear layer" if layer is None else f"layer {layer!r}"
    if len(values) != 1:
        raise NoFeatures(
            f"{what} ran {len(values)} times in one forward pass. Features need a layer= that runs "
            "once."
        )
    if not isinstance(values[0], Tensor):
        raise NoFeatures(
            f"{what} returns a {type(values[0]).__name__}, but features must be a tensor. Name a "
            "layer inside or after it."
        )
    return values[0]


def knn_error(
    train: Tensor,
    y_train: Tensor,
    test: Tensor,
    y_test: Tensor,
    *,
    k: int = 5,
    metric: Metric = "euclidean",
) -> float:
    """Return the error in percent of classification by the ``k`` nearest training features.

    All neighbours have equal votes. In a tie, the first class wins.

    Args:
        train: training features, ``(n, features)``.
        y_train: their labels, ``(n,)``.
        test: test features, ``(m, features)``.
        y_test: their labels, ``(m,)``.
        k: the number of neighbours.
        metric: ``"euclidean"``, or ``"cosine"``, which ignores the lengths.

    Raises:
        ValueError: ``k`` is not from 1 to the number of training features.
    """
    if not 1 <= k <= len(train):
        raise ValueError(f"k is {k}. Expected 1 to {len(train)}, the number of training rows.")
    train, test = _comparable(train, test, metric)
    classes = int(torch.stack([y_train.max(), y_test.max()]).max()) + 1
    lengths = train.square().sum(1)
    wrong = 0
    for part, labels in zip(test.split(500), y_test.split(500), strict=True):
        # |a - b|² without |a|², which is the same for all neighbours of a.
        distance = lengths - 2 * part @ train.T
        nearest = y_train[distance.topk(k, largest=False).indices]
        votes = F.one_hot(nearest, classes).sum(1)
        wrong += int((votes.argmax(1) != labels).sum())
    return 100 * wrong / len(test)


def _comparable(train: Tensor, test: Tensor, metric: Metric) -> tuple[Tensor, Tensor]:
    """Transform features so that their Euclidean distances have the order of the metric."""
    if metric == "cosine":
        return F.normalize(train.float()), F.normalize(test.float())
    # Centred, since products of float32 lose least precision near the origin.
    middle = train.float().mean(0)
    return train.float() - middle, test.float() - middle
