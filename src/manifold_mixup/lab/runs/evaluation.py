"""Evaluations of trained runs: done once, kept in the run's folder."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import Settings, evaluate
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import files, provenance, weights
from manifold_mixup.lab.runs import folder as run_folder

When = Literal["last", "best"]
_FORMAT = 2  # another one when rows say more or other things, so that none of the old are read


def trained(folder: Path, data: Data, when: When = "last") -> nn.Module:
    """Return the model that a finished run ended in, or that of its best epoch.

    Args:
        folder: the run's.
        data: what it was trained on.
        when: ``"last"`` or ``"best"`` epoch.

    Raises:
        FileNotFoundError: there is no run, or it is not finished.
        ValueError: the run diverged, so that its weights are not finite.
    """
    run = run_folder.recipe(folder)
    path = folder / f"{when}.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"the run in {folder} is not finished: there is no {path.name} in it. Train it first; "
            f"the command it was started with goes on with it."
        )
    model = fresh_model(replace(run, compile=False), data).to(run.device)
    tensors = weights.read(path)
    _require_finite(path, tensors, model, run)
    weights.put(model, tensors)
    return model.eval()


def _require_finite(
    path: Path, tensors: Mapping[str, Tensor], fresh: nn.Module, run: Recipe
) -> None:
    """Raise if a training made something NaN or infinite that is finite in a fresh model."""
    own = [name for name, one in fresh.state_dict().items() if one.isfinite().all()]
    broken = [name for name in own if name in tensors and not tensors[name].isfinite().all()]
    if broken:
        other = "--when best may be an earlier epoch; or train" if path.stem == "last" else "Train"
        raise ValueError(
            f"{path} holds NaN or infinity in {len(broken)} of its {len(tensors)} tensors, first "
            f"in {broken[0]}: the run diverged. {other} it again in another folder, with "
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
    """Evaluate a finished run, or read what was found when the same was asked for before.

    Args:
        folder: the run's.
        data: what it was trained on.
        when: as for `trained`.
        battery: as for `evaluate`.
        settings: as for `evaluate`.
        tested: what it is evaluated on, if not ``data`` itself.
        progress: as for `evaluate`.
    """
    settings, tested = settings or Settings(), tested or data
    if when == "best" and _best_is_last(folder):
        when = "last"  # the same weights would be attacked once more
    asked = _asked(battery, settings, tested)
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    path = folder / f"evaluation-{when}-{digest}.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())["evaluation"]
        return found
    model = trained(folder, data, when)
    found = evaluate(model, tested, battery=battery, settings=settings, progress=progress)
    files.write_json(path, {"asked": asked, "evaluation": found, **provenance.describe()})
    # As from the file, in which tuples are lists and what is not finite is null.
    return dict(json.loads(path.read_text())["evaluation"])


def _best_is_last(folder: Path) -> bool:
    result = run_folder.finished(folder)
    return result is not None and result.best_epoch == result.run.epochs


def _asked(battery: Sequence[str] | None, settings: Settings, data: Data) -> dict[str, Any]:
    unknown = {name: provenance.digest(x) for name, x in settings.unknown.items()}
    chosen = asdict(replace(settings, unknown={})) | {"unknown": unknown}
    return {
        "format": _FORMAT,
        "battery": None if battery is None else list(battery),
        "settings": json.loads(json.dumps(chosen)),
        "data": provenance.fingerprint(data),
    }
