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
    weights.put(model, tensors)
    return model.eval()


_OF_ANOTHER = "Give a folder whose files belong together, or train the run again in another."


def _require_fit(path: Path, tensors: Mapping[str, Tensor], fresh: nn.Module, run: Recipe) -> None:
    """Raise if weights have other names or shapes than the model of the recipe."""
    own = {name: tuple(one.shape) for name, one in fresh.state_dict().items()}
    there = {name: tuple(one.shape) for name, one in tensors.items()}
    if differ := [name for name in {**own, **there} if own.get(name) != there.get(name)]:
        name = differ[0]
        raise ValueError(
            f"{path} has the weights of another model: {name} is {there.get(name, 'missing')} "
            f"there, and {own.get(name, 'missing')} in the {run.model} of {run_folder.RECIPE}. "
            f"{_OF_ANOTHER}"
        )


def _require_own(path: Path, tensors: weights.Weights) -> None:
    """Raise if weights are not those whose fingerprint the result has."""
    result = run_folder.finished(path.parent)
    if result is None:
        return
    last = path.stem == "last"
    known = result.weights if last else result.best_weights
    if known and weights.fingerprint(tensors) != known:
        which = "what this run ended in" if last else "the best epoch of this run"
        raise ValueError(
            f"{path} is not {which}: its SHA-256 is not that in {run_folder.RESULT}. {_OF_ANOTHER}"
        )


def _require_finite(
    path: Path, tensors: Mapping[str, Tensor], fresh: nn.Module, run: Recipe
) -> None:
    """Raise if a tensor is not finite that is finite in an untrained model."""
    own = [name for name, one in fresh.state_dict().items() if one.isfinite().all()]
    broken = [name for name in own if name in tensors and not tensors[name].isfinite().all()]
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
    if when == "best" and _best_is_last(folder):
        when = "last"  # do not evaluate the same weights twice
    asked = _asked(battery, settings, tested)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"evaluation-{when}-{digest}.json"
    if path.exists():
        return _stored(path)
    kept = _kept(folder, when, battery, tested)
    found = evaluate(
        trained(folder, data, when) if kept is None else _NoNetwork(),
        tested,
        battery=battery,
        settings=settings,
        outputs=kept,
        progress=progress,
    )
    files.write_json(path, {"asked": asked, "evaluation": found, **provenance.describe()})
    # Read back, so that a fresh result equals a stored one: tuples are lists, NaN is None.
    return dict(json.loads(path.read_text())["evaluation"])


def _stored(path: Path) -> dict[str, Any]:
    try:
        content: Any = json.loads(path.read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it.") from error
    found = content.get("evaluation") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not {"data", "examples"} <= found.keys():
        raise ValueError(f"{path} is damaged (it has no evaluation). Delete it.")
    return found


def is_outdated(content: Mapping[str, Any]) -> bool:
    """Return whether an earlier version wrote the content of an evaluation's file."""
    asked = content.get("asked")
    return isinstance(asked, dict) and asked.get("format") != _FORMAT


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


def _kept(folder: Path, when: When, battery: Sequence[str] | None, tested: Data) -> Tensor | None:
    """Return the stored logits, if no part needs more and they are those of the data tested."""
    if battery is None or not set(battery) <= set(OF_LOGITS):
        return None
    if run_folder.data_fingerprint(folder) != provenance.fingerprint(tested):
        return None  # a part of the test set, or other data
    found = outputs.for_test_set(folder, when, tested.y_test)
    if found is not None:
        _require_own_outputs(folder, when, nll(found, tested.y_test))
    return found


def _require_own_outputs(folder: Path, when: When, found: float) -> None:
    """Raise if the stored logits have another NLL than the result."""
    result = run_folder.finished(folder)
    if result is None:
        return
    expected = (result.last if when == "last" else result.best).nll
    if math.isfinite(expected) and not math.isclose(found, expected, rel_tol=1e-3, abs_tol=1e-5):
        raise ValueError(
            f"{folder / outputs.NAME} is not of this run: its NLL after the {when} epoch is "
            f"{found:.4g}, but {run_folder.RESULT} has {expected:.4g}. Delete it: evaluate then "
            f"runs the network."
        )


class _NoNetwork(nn.Module):
    """Stands in for the network of a run whose logits are known; it has no parameters."""

    def forward(self, *_: Tensor) -> Tensor:
        raise RuntimeError("the logits were kept, so the network was not loaded.")


def _best_is_last(folder: Path) -> bool:
    result = run_folder.finished(folder)
    return result is not None and result.best_epoch == result.run.epochs


def _asked(battery: Sequence[str] | None, settings: Settings, data: Data) -> dict[str, Any]:
    plain = replace(settings, unknown={}, cifar_c=None, cifar_10_1={})
    chosen = asdict(plain) | {
        "unknown": {name: provenance.digest(x) for name, x in settings.unknown.items()},
        "cifar_c": settings.cifar_c and settings.cifar_c.describe(),
        "cifar_10_1": {name: provenance.digest(*of) for name, of in settings.cifar_10_1.items()},
    }
    spent = set(BUDGETED) & set(battery or ())
    # Older evaluations have none of these settings, and are read as long as none counts.
    unused = [name for name in ("cifar_c", "cifar_10_1") if not chosen[name]]
    for name in [*unused, *(() if spent else ("budget",))]:
        del chosen[name]
    return {
        "format": _FORMAT,
        "battery": None if battery is None else list(battery),
        "settings": json.loads(json.dumps(chosen)),
        "data": provenance.fingerprint(data),
    }
