"""The parts of an evaluation by name, and which suit the data."""

from collections.abc import Callable, Iterator, Sequence

from manifold_mixup.lab import suggest
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate.autoattack import require_package
from manifold_mixup.lab.evaluate.battery import attacked, predictions, shifts, states, unknown
from manifold_mixup.lab.evaluate.battery.subject import Job, Subject, are_images
from manifold_mixup.lab.evaluate.temperature import HALF

PARTS: dict[str, Callable[[Subject], Iterator[Job]]] = {
    "clean": predictions.clean,
    "calibration": predictions.calibrated,
    "selective": predictions.selective,
    "attacks": attacked.attacks,
    "strength": attacked.strength,
    "robustness": attacked.robustness,
    "apgd": attacked.apgd,
    "deformations": shifts.deformations,
    "corruptions": shifts.corruptions,
    "cifar-c": shifts.cifar_c,
    "cifar-10.1": shifts.cifar_10_1,
    "outliers": unknown.outlier_separation,
    "neighbours": states.neighbours,
    "interpolation": states.interpolation,
    "confidence": unknown.confidence,
    "flatness": states.layer_flatness,
    "collapse": states.neural_collapse,
    "spectra": states.spectra,
    "plane": unknown.plane,
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
    return _unfit_inputs(part, data) or _unfit_labels(part, data)


def _unfit_inputs(part: str, data: Data) -> str:
    but = f"but the inputs of {data.name} have shape {tuple(data.x_test.shape[1:])}"
    if part == "deformations" and not are_images(data):
        return f"only images can be deformed, {but}"
    if part == "corruptions" and not (are_images(data) and data.x_test.shape[1] in (1, 3)):
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


def _unfit_labels(part: str, data: Data) -> str:
    if part in ("neighbours", "collapse") and data.y.is_floating_point():
        return f"{part} needs classes as training labels, but those of {data.name} are soft"
    if part == "collapse":
        for name, y in (("training", data.y), ("test", data.y_test)):
            if len(y.unique()) < 2:
                return (
                    f"neural collapse is about several classes, but all {len(y)} {name} examples "
                    f"of {data.name} are of one"
                )
    return ""
