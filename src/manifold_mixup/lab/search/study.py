"""The file of a search: an Optuna study for each way, and what the search was asked for.

It is an SQLite database. A process that is killed while it writes leaves no half of a trial, since
SQLite rolls it back, and no lock, since the kernel releases it. Optuna's other file, the journal,
is made for network file systems without such locks. But it keeps the lock of a killed process for
half a minute, and a line that was half written damages it with the next line. One process writes a
study, even if the runs are trained on many machines, so such file systems are not needed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from manifold_mixup.lab.runs import files
from manifold_mixup.lab.search.space import Settings

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_ASKED, _FOUND = "asked for", "found: "


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        settings: its settings.
        value: the mean of the metric over the seeds; ``None`` if a run diverged.
        scores: the scores of each seed that did not diverge, by name.
        seconds: the training time of all seeds.
        reason: why it failed; empty if it did not.
    """

    settings: Settings
    value: float | None
    scores: tuple[Mapping[str, float], ...]
    seconds: float
    reason: str = ""


class StudyFile:
    """The trials and findings of a search in a file; made by `opened`."""

    def __init__(self, studies: "Mapping[str, Study]") -> None:
        self._studies = studies

    def raw(self, way: str) -> "list[FrozenTrial]":
        """Return the trials of a way as Optuna has them."""
        return self._studies[way].get_trials(deepcopy=False)

    def trials(self, way: str) -> list[Trial]:
        """Return the trials of a way."""
        return [
            Trial(
                settings=one.params,
                value=one.value if one.state.name == "COMPLETE" else None,
                scores=tuple(one.user_attrs["scores"]),
                seconds=one.user_attrs["seconds"],
                reason=one.user_attrs["reason"],
            )
            for one in self.raw(way)
        ]

    def add(self, way: str, trial: Trial, space: "Mapping[str, BaseDistribution]") -> None:
        """Add a finished trial, as a whole or not at all."""
        from optuna.trial import TrialState, create_trial

        attributes = {
            "scores": [dict(one) for one in trial.scores],
            "seconds": trial.seconds,
            "reason": trial.reason,
        }
        self._studies[way].add_trial(
            create_trial(
                state=TrialState.FAIL if trial.value is None else TrialState.COMPLETE,
                value=trial.value,
                params=dict(trial.settings),
                distributions=dict(space),
                user_attrs=files.finite(attributes),
            )
        )

    def found(self, name: str) -> Any:
        """Return a finding that was kept, or None."""
        return self._first.user_attrs.get(_FOUND + name)

    def keep(self, name: str, value: Any) -> None:
        """Keep a finding, such as the results of the final runs, as JSON."""
        self._first.set_user_attr(_FOUND + name, files.finite(value))

    @property
    def _first(self) -> "Study":
        return next(iter(self._studies.values()))


def import_optuna() -> Any:
    """Return the Optuna module.

    Raises:
        ValueError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise ValueError(
            "tune needs optuna, which is not installed. Install it with: "
            "pip install 'manifold-mixup[tune]'"
        ) from None
    return optuna


@contextmanager
def opened(path: Path, *, asked: Mapping[str, Any], ways: Sequence[str]) -> Iterator[StudyFile]:
    """Open the file of a search, or make it.

    Args:
        path: the file.
        asked: all options that determine the result, as JSON. They are kept in the file.
        ways: the ways that are searched.

    Raises:
        BlockingIOError: another process is searching with this file.
        ValueError: the file has a search with other options, or is no study.
        OSError: the folder cannot be written.
    """
    _check_path(path)
    files.writable_folder(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"another process is tuning with {path}. Wait until it ends, stop it, or give another "
            f"file with --study."
        ) from None
    try:
        with _storage(path) as storage:
            yield StudyFile(_studies(storage, path, json.loads(json.dumps(asked)), ways))
    finally:
        lock.release()


@contextmanager
def read(path: Path) -> Iterator[tuple[Mapping[str, Any], StudyFile]]:
    """Open the file of a search to read what it was asked for, and its trials.

    Raises:
        ValueError: there is no such file, or `manifold-mixup tune` did not make it.
    """
    if not path.exists():
        raise ValueError(f"there is no study {path}. manifold-mixup tune makes one.")
    _check_path(path)
    with _storage(path) as storage:
        import optuna

        there = {
            one.study_name: one.user_attrs[_ASKED]
            for one in optuna.get_all_study_summaries(storage)
            if _ASKED in one.user_attrs
        }
        if not there:
            raise ValueError(f"{path} has no study that manifold-mixup tune made.")
        studies = {name: optuna.load_study(study_name=name, storage=storage) for name in there}
        yield next(iter(there.values())), StudyFile(studies)


def _check_path(path: Path) -> None:
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder. --study expects a file, such as {path / 'study.db'}."
        )
    if "?" in str(path):
        raise ValueError(f"--study is {path}. A database cannot have '?' in its name.")
    if path.exists() and path.stat().st_size and not path.read_bytes()[:15] == b"SQLite format 3":
        raise ValueError(f"{path} is not a study of Optuna. Give another file with --study.")


@contextmanager
def _storage(path: Path) -> Iterator[Any]:
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
    except Exception as error:  # SQLAlchemy's errors differ by what is wrong with the file
        raise ValueError(
            f"{path} cannot be opened as a study of Optuna ({str(error).splitlines()[0]}). Give "
            f"another file with --study."
        ) from error
    try:
        yield storage
    finally:
        storage.engine.dispose()


def _studies(
    storage: Any, path: Path, asked: Mapping[str, Any], ways: Sequence[str]
) -> "dict[str, Study]":
    import optuna

    found = {}
    for one in optuna.get_all_study_summaries(storage):
        if _ASKED in one.user_attrs:
            _require_same(path, one.user_attrs[_ASKED], asked)
        elif one.n_trials or one.study_name not in ways:
            raise ValueError(
                f"{path} has a study {one.study_name!r} that manifold-mixup tune did not make. "
                f"Give another file with --study."
            )
    for way in ways:
        found[way] = optuna.create_study(storage=storage, study_name=way, load_if_exists=True)
        if _ASKED not in found[way].user_attrs:
            found[way].set_user_attr(_ASKED, asked)
    return found


def _require_same(path: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a study was made with other options."""
    theirs, ours = _flat(there), _flat(asked)
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    # An option changes all recipes, so they are named only if nothing else differs.
    named = [name for name in names if not name.startswith("recipes ")] or names
    differ = [f"{name} {theirs.get(name)} there, {ours.get(name)} here" for name in named]
    if differ:
        raise ValueError(
            f"{path} has a study with other options: {'; '.join(differ)}. Give the same options to "
            f"resume it, or another file with --study."
        )


def _flat(asked: Mapping[str, Any]) -> dict[str, str]:
    """Return nested options as words by name."""
    found: dict[str, str] = {}
    for name, value in asked.items():
        if isinstance(value, dict):
            found |= {f"{name} {key}": words for key, words in _flat(value).items()}
        else:
            found[name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found
