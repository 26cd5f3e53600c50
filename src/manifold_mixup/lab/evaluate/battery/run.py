"""`evaluate`: the paper's test batteries on a trained model, as a JSON value."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate.battery.checks import checked
from manifold_mixup.lab.evaluate.battery.parts import PARTS, battery_of
from manifold_mixup.lab.evaluate.battery.settings import Settings
from manifold_mixup.lab.evaluate.battery.subject import Subject
from manifold_mixup.lab.evaluate.battery.units import UNITS
from manifold_mixup.lab.evaluate.inference import in_eval_mode


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
        TypeError: the model does not return a tensor.
        ValueError: there is no such part, or it does not suit the data; labels are not classes, or
            the outputs are not one logit for each class.
    """
    data = checked(data) if not data.regression else data
    parts = battery_of(battery, data)
    subject = Subject(
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
        subject.check_outputs()
        jobs = [(part, *job) for part in parts for job in PARTS[part](subject)]
        for done, (part, name, job) in enumerate(jobs, start=1):
            result[part].append({"name": name, **job()})
            progress(done, len(jobs), f"{part}: {name}")
    return result
