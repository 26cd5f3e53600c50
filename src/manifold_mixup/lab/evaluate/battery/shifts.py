"""Parts that test on deformed, corrupted or newly collected images."""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from statistics import fmean
from typing import Any

from torch import Tensor

from manifold_mixup.lab.data import shifted
from manifold_mixup.lab.evaluate.battery.subject import Job, Row, Subject
from manifold_mixup.lab.evaluate.corruptions import Corruption, corrupt
from manifold_mixup.lab.evaluate.deform import Deformation
from manifold_mixup.lab.evaluate.inference import logits
from manifold_mixup.lab.evaluate.metrics import error
from manifold_mixup.lab.evaluate.statistics import binomial_interval


def deformations(subject: Subject) -> Iterator[Job]:
    """The accuracy on each deformed test set."""
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


def corruptions(subject: Subject) -> Iterator[Job]:
    """The accuracy on each corrupted test set."""

    def row(corruption: Corruption) -> Row:
        x = corrupt(subject.data.x_test, corruption, generator=subject.generator())
        return {
            "accuracy": 100 - error(logits(subject.model, x), subject.y),
            "amount": corruption.amount,
        }

    for corruption in subject.settings.corruptions:
        yield str(corruption), partial(row, corruption)


def cifar_c(subject: Subject) -> Iterator[Job]:
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


def cifar_10_1(subject: Subject) -> Iterator[Job]:
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
