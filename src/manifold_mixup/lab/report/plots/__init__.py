"""Pictures: the only place that imports matplotlib."""

from manifold_mixup.lab.report.plots.canvas import Picture, save
from manifold_mixup.lab.report.plots.comparison import comparison_picture, reliability_picture
from manifold_mixup.lab.report.plots.plane import View, plane_picture
from manifold_mixup.lab.report.plots.spectra import spectra_picture
from manifold_mixup.lab.report.plots.theory import theory_picture

__all__ = [
    "Picture",
    "View",
    "comparison_picture",
    "plane_picture",
    "reliability_picture",
    "save",
    "spectra_picture",
    "theory_picture",
]
