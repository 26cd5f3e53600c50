"""Evaluations of trained runs: computed once, then stored in the run's folder."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import BUDGETED, OF_LOGITS, Settings, evaluate, nll
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import files, outputs, provenance, weights
from manifold_mixup.lab.runs import folder as run_folder

When = Literal["last", "best"]
_FORMAT = 4  # increased when the rows change, so that old evaluations are not read


def trained(folder: Path, data: Data, when: When = "last") -> nn.Module:
    """Return the trained model of a finished run, after its last or its best epoch.

    Args:
        folder: the run's folder.
        data: the data it was trained on.
        when: ``"last"`` or ``"best"`` epoch.

    Raises:
        FileNotFoundError: there is no run, or it is not finished.
        ValueError: the run diverged, so that its weights are not finite, or they are those of
            another run.
    """
    run = run_folder.recipe(folder)
    path = folder / f"{when}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"the run in {folder} is not finished: it has no {path.name}. Resume it first, with "
            f"the command that started it."
        )
    model = fresh_model(replace(run, compile=False), data).to(run.device)
    tensors = weights.read(path)
    _require_fit(path, tensors, model, run)
    _require_finite(path, tensors, model, run)
    _require_own(path, tensors)
    weights.load(model, tensors)
    return model.eval()


_OF_ANOTHER = "Give a folder whose files belong together, or train the run again in another."


def _require_fit(path: Path, tensors: Mapping[str, Tensor], fresh: nn.Module, run: Recipe) -> None:
    """Raise if weights have other names or shapes than the model of the recipe."""
    own = {name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()}
    loaded = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if differ := [name for name in {**own, **loaded} if own.get(name) != loaded.get(name)]:
        name = differ[0]
        raise ValueError(
            f"{path} has the weights of another model: {name} is {loaded.get(name, 'missing')} "
            f"there, and {own.get(name, 'missing')} in the {run.model} of {run_folder.RECIPE}. "
            f"{_OF_ANOTHER}"
        )


def _require_own(path: Path, tensors: weights.Weights) -> None:
    """Raise if weights are not those whose fingerprint the result has."""
    result = run_folder.finished(path.parent)
    if result is None:
        return
    last = path.stem == "last"
    expected = result.weights if last else result.best_weights
    if expected and weights.fingerprint(tensors) != expected:
        which = "what this run ended in" if last else "the best epoch of this run"
        raise ValueError(
            f"{path} is not {which}: its SHA-256 is not that in {run_folder.RESULT}. {_OF_ANOTHER}"
        )


def _require_finite(
    path: Path, tensors: Mapping[str, Tensor], fresh: nn.Module, run: Recipe
) -> None:
    """Raise if a tensor is not finite that is finite in an untrained model."""
    names = [name for name, tensor in fresh.state_dict().items() if tensor.isfinite().all()]
    broken = [name for name in names if name in tensors and not tensors[name].isfinite().all()]
    if broken:
        way_out = "Try --when best, an earlier epoch, or train" if path.stem == "last" else "Train"
        raise ValueError(
            f"the run diverged: {len(broken)} of the {len(tensors)} tensors in {path} contain NaN "
            f"or infinity, first {broken[0]}. {way_out} it again in another folder, with "
            f"a learning rate below {run.lr:g} (--lr)."
        )


def evaluated(
    folder: Path,
    data: Data,
    when: When,
    *,
    battery: Sequence[str] | None = None,
    settings: Settings | None = None,
    tested: Data | None = None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Evaluate a finished run, or read the stored result of the same evaluation.

    Args:
        folder: the run's folder.
        data: the data it was trained on.
        when: as for `trained`.
        battery: as for `evaluate`.
        settings: as for `evaluate`.
        tested: the data to evaluate on, if not ``data``.
        progress: as for `evaluate`.

    If no part needs more than the logits of the whole test set, and the run kept them, the network
    is not loaded.
    """
    settings, tested = settings or Settings(), tested or data
    if when == "best" and _best_is_the_last(folder):
        when = "last"  # do not evaluate the same weights twice
    request = _request(battery, settings, tested)
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"evaluation-{when}-{digest}.json"
    if path.exists():
        return _read_stored(path)
    logits = _stored_outputs(folder, when, battery, tested)
    evaluation = evaluate(
        trained(folder, data, when) if logits is None else _NoNetwork(),
        tested,
        battery=battery,
        settings=settings,
        outputs=logits,
        progress=progress,
    )
    files.write_json(path, {"asked": request, "evaluation": evaluation, **provenance.describe()})
    # Read back, so that a fresh result equals a stored one: tuples are lists, NaN is None.
    return dict(json.loads(path.read_text())["evaluation"])


def _read_stored(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it.") from error
    evaluation = content.get("evaluation") if isinstance(content, dict) else None
    if not isinstance(evaluation, dict) or not {"data", "examples"} <= evaluation.keys():
        raise ValueError(f"{path} is damaged (it has no evaluation). Delete it.")
    return evaluation


def is_outdated(content: Mapping[str, Any]) -> bool:
    """Return whether an earlier version wrote the content of an evaluation's file."""
    request = content.get("asked")
    return isinstance(request, dict) and request.get("format") != _FORMAT


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of the final weights, for processes that call it after each run.

    Attributes:
        data: the names of the data in recipes; runs on other data are passed over.
        battery: as for `evaluate`.
        settings: as for `evaluate`.
    """

    data: tuple[str, ...]
    battery: tuple[str, ...]
    settings: Settings

    def __call__(
        self, folder: Path, data: Data, tell: Callable[[str], None] = lambda _: None
    ) -> dict[str, Any]:
        """Evaluate a finished run, or read what was found before."""
        if run_folder.recipe(folder).data not in self.data:
            return {}
        return evaluated(folder, data, "last", battery=self.battery, settings=self.settings)


def _stored_outputs(
    folder: Path, when: When, battery: Sequence[str] | None, tested: Data
) -> Tensor | None:
    """Return the stored logits, if no part needs more and they are those of the data tested."""
    if battery is None or not set(battery) <= set(OF_LOGITS):
        return None
    if run_folder.data_fingerprint(folder) != provenance.fingerprint(tested):
        return None  # a part of the test set, or other data
    logits = outputs.for_test_set(folder, when, tested.y_test)
    if logits is not None:
        _require_own_outputs(folder, when, nll(logits, tested.y_test))
    return logits


def _require_own_outputs(folder: Path, when: When, stored: float) -> None:
    """Raise if the stored logits have another NLL than the result."""
    result = run_folder.finished(folder)
    if result is None:
        return
    expected = (result.last if when == "last" else result.best).nll
    if math.isfinite(expected) and not math.isclose(stored, expected, rel_tol=1e-3, abs_tol=1e-5):
        raise ValueError(
            f"{folder / outputs.NAME} is not of this run: its NLL after the {when} epoch is "
            f"{stored:.4g}, but {run_folder.RESULT} has {expected:.4g}. Delete it: evaluate then "
            f"runs the network."
        )


class _NoNetwork(nn.Module):
    """Stands in for the network of a run whose logits are known; it has no parameters."""

    def forward(self, *_: Tensor) -> Tensor:
        raise RuntimeError("the logits were kept, so the network was not loaded.")


def _best_is_the_last(folder: Path) -> bool:
    result = run_folder.finished(folder)
    return result is not None and result.best_epoch == result.run.epochs


def _request(battery: Sequence[str] | None, settings: Settings, data: Data) -> dict[str, Any]:
    plain = replace(settings, unknown={}, cifar_c=None, cifar_10_1={})
    settings_as_json = asdict(plain) | {
        "unknown": {name: provenance.digest(x) for name, x in settings.unknown.items()},
        "cifar_c": settings.cifar_c and settings.cifar_c.describe(),
        "cifar_10_1": {
            name: provenance.digest(*arrays) for name, arrays in settings.cifar_10_1.items()
        },
    }
    spent = set(BUDGETED) & set(battery or ())
    # Older evaluations have none of these settings, and are read as long as none counts.
    unused = [name for name in ("cifar_c", "cifar_10_1") if not settings_as_json[name]]
    for name in [*unused, *(() if spent else ("budget",))]:
        del settings_as_json[name]
    return {
        "format": _FORMAT,
        "battery": None if battery is None else list(battery),
        "settings": json.loads(json.dumps(settings_as_json)),
        "data": provenance.fingerprint(data),
    }
