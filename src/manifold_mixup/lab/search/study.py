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
    """The trials and findings of a search in a file; made by `open_study`."""

    def __init__(self, studies: "Mapping[str, Study]") -> None:
        self._studies = studies

    def raw(self, way: str) -> "list[FrozenTrial]":
        """Return the trials of a way as Optuna has them."""
        return self._studies[way].get_trials(deepcopy=False)

    def trials(self, way: str) -> list[Trial]:
        """Return the trials of a way."""
        return [
            Trial(
                settings=trial.params,
                value=trial.value if trial.state.name == "COMPLETE" else None,
                scores=tuple(trial.user_attrs["scores"]),
                seconds=trial.user_attrs["seconds"],
                reason=trial.user_attrs["reason"],
            )
            for trial in self.raw(way)
        ]

    def add(self, way: str, trial: Trial, space: "Mapping[str, BaseDistribution]") -> None:
        """Add a finished trial, as a whole or not at all."""
        from optuna.trial import TrialState, create_trial

        attributes = {
            "scores": [dict(scores) for scores in trial.scores],
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
def open_study(path: Path, *, asked: Mapping[str, Any], ways: Sequence[str]) -> Iterator[StudyFile]:
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
def read_study(path: Path) -> Iterator[tuple[Mapping[str, Any], StudyFile]]:
    """Open the file of a search to read what it was asked for, and its trials.

    Raises:
        ValueError: there is no such file, or `manifold-mixup tune` did not make it.
    """
    if not path.exists():
        raise ValueError(f"there is no study {path}. manifold-mixup tune makes one.")
    _check_path(path)
    with _storage(path) as storage:
        import optuna

        options_of = {
            summary.study_name: summary.user_attrs[_ASKED]
            for summary in optuna.get_all_study_summaries(storage)
            if _ASKED in summary.user_attrs
        }
        if not options_of:
            raise ValueError(f"{path} has no study that manifold-mixup tune made.")
        studies = {name: optuna.load_study(study_name=name, storage=storage) for name in options_of}
        yield next(iter(options_of.values())), StudyFile(studies)


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

    studies = {}
    for summary in optuna.get_all_study_summaries(storage):
        if _ASKED in summary.user_attrs:
            _require_same(path, summary.user_attrs[_ASKED], asked)
        elif summary.n_trials or summary.study_name not in ways:
            raise ValueError(
                f"{path} has a study {summary.study_name!r} that manifold-mixup tune did not make. "
                f"Give another file with --study."
            )
    for way in ways:
        studies[way] = optuna.create_study(storage=storage, study_name=way, load_if_exists=True)
        if _ASKED not in studies[way].user_attrs:
            studies[way].set_user_attr(_ASKED, asked)
    return studies


def _require_same(path: Path, there: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise a `ValueError` if a study was made with other options."""
    stored, given = _flat(there), _flat(asked)
    names = [name for name in {**stored, **given} if stored.get(name) != given.get(name)]
    # An option changes all recipes, so they are named only if nothing else differs.
    shown = [name for name in names if not name.startswith("recipes ")] or names
    differ = [f"{name} {stored.get(name)} there, {given.get(name)} here" for name in shown]
    if differ:
        raise ValueError(
            f"{path} has a study with other options: {'; '.join(differ)}. Give the same options to "
            f"resume it, or another file with --study."
        )


def _flat(asked: Mapping[str, Any]) -> dict[str, str]:
    """Return nested options as words by name."""
    words_of: dict[str, str] = {}
    for name, value in asked.items():
        if isinstance(value, dict):
            words_of |= {f"{name} {key}": words for key, words in _flat(value).items()}
        else:
            words_of[name] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words_of
