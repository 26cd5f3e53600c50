"""Parts that need the logits of the test set alone."""

from collections.abc import Iterator
from dataclasses import asdict

from torch import Tensor

from manifold_mixup.lab.evaluate import outliers
from manifold_mixup.lab.evaluate.battery.checks import undefined
from manifold_mixup.lab.evaluate.battery.subject import Job, Row, Subject
from manifold_mixup.lab.evaluate.calibration import calibration
from manifold_mixup.lab.evaluate.metrics import brier, error, nll, reliability, top_error
from manifold_mixup.lab.evaluate.selective import risk_coverage
from manifold_mixup.lab.evaluate.temperature import NoTemperature, twofold


def clean(subject: Subject) -> Iterator[Job]:
    """Error, NLL, ECE, Brier score and reliability."""

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
            **_note(clean),
        }

    yield "test set", row


def _note(logits: Tensor) -> Row:
    return {"note": note} if (note := undefined(logits)) else {}


def calibrated(subject: Subject) -> Iterator[Job]:
    """Measures of calibration, before and after temperature scaling."""

    def errors(scaled: Tensor) -> Row:
        measures = asdict(calibration(scaled, subject.y, generator=subject.generator()))
        bins = {name: list(values) for name, values in measures["reliability"].items()}
        return measures | {"reliability": bins}

    def before() -> Row:
        return errors(subject.clean) | _note(subject.clean)

    def after() -> Row:
        try:
            scaled = twofold(subject.clean, subject.y, generator=subject.generator())
        except NoTemperature as error:
            return {"note": f"no temperature: {error}"}
        how = "twofold over the test set: each half is divided by the temperature of the other"
        temperatures = list(scaled.temperatures)
        return {"fitted": how, "temperatures": temperatures, **errors(scaled.logits)}

    yield "before scaling", before
    yield "after scaling", after


def selective(subject: Subject) -> Iterator[Job]:
    """Risk and coverage, by the greatest softmax."""

    def row() -> Row:
        sure = outliers.confidence(subject.clean)
        curve = asdict(risk_coverage(sure, subject.clean.argmax(1) != subject.y))
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in curve.items()
        } | _note(subject.clean)

    yield "test set", row
