"""The sections below the comparison, in the order of the page."""

from collections.abc import Callable

from manifold_mixup.lab.report.sections import (
    boundaries,
    by_epoch,
    confidence,
    hidden_states,
    outliers,
    published,
    robustness,
    training,
)
from manifold_mixup.lab.report.sections.section import Methods, Section

SECTIONS: tuple[Callable[[Methods], Section | None], ...] = (
    training.curves,
    confidence.reliability,
    confidence.calibration,
    confidence.selective,
    robustness.attacks,
    robustness.strength,
    robustness.bounded,
    robustness.rising,
    robustness.deformations,
    published.corrupted,
    published.new_images,
    outliers.outliers,
    confidence.off_data,
    hidden_states.interpolation,
    hidden_states.flatness,
    hidden_states.spectra,
    hidden_states.collapse,
    by_epoch.states,
    boundaries.boundaries,
)
"""A section without data is `None`."""
