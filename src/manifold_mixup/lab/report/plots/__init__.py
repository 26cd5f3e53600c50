"""Pictures; only this package imports matplotlib."""

from manifold_mixup.lab.report.plots.batch import batch_picture
from manifold_mixup.lab.report.plots.canvas import Picture, save
from manifold_mixup.lab.report.plots.comparison import comparison_picture, reliability_picture
from manifold_mixup.lab.report.plots.plane import InputView, View, plane_picture
from manifold_mixup.lab.report.plots.report import (
    CURVES,
    curve_picture,
    deformations_picture,
    interpolation_picture,
    states_curve_picture,
    strength_picture,
)
from manifold_mixup.lab.report.plots.selective import risk_picture
from manifold_mixup.lab.report.plots.spectra import spectra_picture
from manifold_mixup.lab.report.plots.states import Points, states_picture
from manifold_mixup.lab.report.plots.theory import theory_picture

__all__ = [
    "CURVES",
    "InputView",
    "Picture",
    "Points",
    "View",
    "batch_picture",
    "comparison_picture",
    "curve_picture",
    "deformations_picture",
    "interpolation_picture",
    "plane_picture",
    "reliability_picture",
    "risk_picture",
    "save",
    "spectra_picture",
    "states_curve_picture",
    "states_picture",
    "strength_picture",
    "theory_picture",
]
