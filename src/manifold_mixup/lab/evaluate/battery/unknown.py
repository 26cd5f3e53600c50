"""Parts that test on inputs unlike the data."""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

from torch import Tensor

from manifold_mixup.lab.data import as_input
from manifold_mixup.lab.evaluate import off_data, outliers
from manifold_mixup.lab.evaluate.battery.checks import undefined
from manifold_mixup.lab.evaluate.battery.subject import Job, Outputs, Row, Subject
from manifold_mixup.lab.evaluate.inference import logits
from manifold_mixup.lab.evaluate.plane import SURE, input_plane

_FILLED = (
    "no confidence off the data: no input was found in the box of the training inputs that is "
    "farther from each of them than 99 % of the test inputs are."
)


def outlier_separation(subject: Subject) -> Iterator[Job]:
    """How well each score tells unknown inputs from the test set."""

    def row(name: str, kind: outliers.Kind | None, unknown: Callable[[], Outputs]) -> Row:
        known, outside = subject.test_outputs, unknown()
        note = undefined(known.logits) or undefined(outside.logits, of=f"inputs of {name}")
        if note:
            return {"kind": kind, "note": note}
        result: Row = {"kind": kind} | {
            name: asdict(outliers.separation(score(known.logits), score(outside.logits)))
            for name, score in outliers.SCORES.items()
        }
        if isinstance(subject.feature_bank, str) or known.scores is None or outside.scores is None:
            return result | {"note": subject.feature_bank}
        by_distance = asdict(outliers.separation(known.scores, outside.scores))
        used = {"k": subject.feature_bank.k, "examples": len(subject.feature_bank.features)}
        layer = subject.settings.features or "input of the last linear layer"
        return result | {"distance": by_distance | used | {"layer": layer}}

    for name, kind, unknown in _unknown(subject):
        yield name, partial(row, name, kind, unknown)


def _unknown(
    subject: Subject,
) -> Iterator[tuple[str, outliers.Kind | None, Callable[[], Outputs]]]:
    """Yield the name and kind of each set of outliers with a function that returns its outputs."""
    data, settings = subject.data, subject.settings
    noise = outliers.noise(as_input(data.x_test), generator=subject.generator(), bounds=data.bounds)
    for name, x in settings.unknown.items():
        yield name, outliers.kind(data.name, name), partial(_outputs_of, subject, name, x)
    for name, x in noise.items():
        yield name, "far", partial(subject.outputs_for, x)
    for deformation in settings.deformations if subject.images else ():
        yield str(deformation), "shifted", partial(subject.deformed, deformation)


def _outputs_of(subject: Subject, name: str, x: Tensor) -> Outputs:
    """Return the outputs for other inputs than the data's, or say that they do not fit."""
    own = tuple(subject.data.x_test.shape[1:])
    if not len(x):
        raise ValueError(f"the outliers {name!r} have no inputs. Expected at least one.")
    try:
        return subject.outputs_for(x)
    except RuntimeError as error:
        if tuple(x.shape[1:]) == own:
            raise
        raise ValueError(
            f"the outliers {name!r} have inputs of shape {tuple(x.shape[1:])}, but those of "
            f"{subject.data.name} have {own}, and the model does not take others ({error}). Give "
            f"inputs of the same shape."
        ) from error


def confidence(subject: Subject) -> Iterator[Job]:
    """The greatest softmax off the data, and on the test set."""

    def row(outputs_of: Callable[[], Tensor]) -> Row:
        outputs = outputs_of()
        if not len(outputs):
            return {"greatest": math.nan, "sure": math.nan, "inputs": 0, "note": _FILLED}
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


def plane(subject: Subject) -> Iterator[Job]:
    """The share of the plane of inputs in which the model is sure."""

    def row() -> Row:
        return {"confident": input_plane(subject.model, subject.data.x).confident}

    yield "inputs", row
