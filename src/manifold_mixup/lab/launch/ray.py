"""Many runs on a Ray cluster, each a task that is retried and resumed if its worker dies.

The folder must be on storage that all nodes share. The progress of the runs is read from it too.
"""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from manifold_mixup.lab.launch.callbacks import After, Reports, Source, data_of
from manifold_mixup.lab.launch.interrupt import ctrl_c
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.metrics_log import METRICS
from manifold_mixup.lab.runs.result import Result, read_epoch
from manifold_mixup.lab.training.loop import train

RETRIES = 10
_POLL = 1.0  # seconds between looks at the folders, at least
_POLL_SHARE = 9.0  # times as long as a look took: ten thousand folders may take a while


def train_on_ray(
    runs: Sequence[Recipe],
    data: Source,
    *,
    reports: Reports,
    folder: Path,
    after: After | None = None,
    gpus: float = 0.0,
) -> Iterator[Result]:
    """Train every run as a Ray task and yield the results as they finish.

    It joins the cluster at ``RAY_ADDRESS``, or else the local cluster, or else starts one.
    Leaving the iterator early stops and saves the current runs.

    Args:
        runs: the recipes.
        data: the data that all runs train on, or a function from the seed of a run to its data.
        reports: the progress callbacks.
        folder: the parent of the runs' folders, on storage that all nodes share.
        after: called on the worker that trained a run, once it is finished; see `train_all`.
        gpus: the number of GPUs reserved for a run; at 0.5, two runs share one.

    Raises:
        FloatingPointError: a run diverged, and ``reports`` has no ``on_failure``.
        ChildProcessError: a worker died repeatedly.
    """
    ray = import_ray()
    errors = ray.exceptions
    _join(ray)
    remote_train = _task(ray, gpus)
    shared, folder = ray.put(data), folder.absolute()
    running = {remote_train.remote(run, shared, folder, after): run for run in runs}
    try:
        yield from _results(ray, running, folder, reports)
    except (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError) as error:
        raise ChildProcessError(
            f"a worker of the Ray cluster died {RETRIES + 1} times, perhaps because memory ran "
            f"out. Fewer runs in parallel may help: use a greater --gpus, or a smaller cluster."
        ) from error
    finally:
        for task in running:
            ray.cancel(task)  # acts like Ctrl-C, so that the run is saved
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=60)


def _results(
    ray: Any, running: dict[Any, Recipe], folder: Path, reports: Reports
) -> Iterator[Result]:
    """Yield the results of tasks as they finish, and remove these tasks from those running."""
    logs = {run: folder / run_folder.folder_name(run) / METRICS for run in running.values()}
    reported = dict.fromkeys(logs, Reported(0, 0))
    pause = _POLL
    while running:
        done, _ = ray.wait(list(running), num_returns=len(running), timeout=pause)
        start = time.perf_counter()
        for run in running.values():
            reported[run] = _report_new_epochs(run, logs[run], reports, reported[run])
        pause = max(_POLL, _POLL_SHARE * (time.perf_counter() - start))
        for task in done:
            try:
                result = ray.get(task)
            except FloatingPointError as error:
                reports.fail(running.pop(task), error)
                continue
            yield result
            del running[task]


def _join(ray: Any) -> None:
    """Join the cluster, unless this process has joined it before."""
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)


def _task(ray: Any, gpus: float) -> Any:
    """Return `_train` as a Ray task that is retried if its worker dies."""
    return ray.remote(
        num_cpus=1,
        num_gpus=gpus,
        max_retries=RETRIES,
        # After a node dies, shared storage keeps the lock of its run for a while.
        retry_exceptions=[BlockingIOError],
    )(_train)


def _train(run: Recipe, source: Source, folder: Path, after: After | None) -> Result:
    torch.set_num_threads(1)
    data = data_of(run, source)
    own = folder / run_folder.folder_name(run)
    with ctrl_c() as stop:
        result = train(run, data, folder=own, stop=stop)
    if after is not None:
        after(own, data, lambda _: None)
    return result


class Reported(NamedTuple):
    """What was reported of a run: the epochs, and the bytes of its log when it was last read."""

    epochs: int
    size: int


def _report_new_epochs(run: Recipe, log: Path, reports: Reports, before: Reported) -> Reported:
    """Report the epochs of a run that were not reported yet, if its log has grown."""
    try:
        size = log.stat().st_size
    except OSError:  # the run has not begun
        return before
    if size == before.size:
        return before
    epochs = before.epochs
    for line in log.read_text().splitlines()[epochs:]:
        try:
            reports.tell(run, read_epoch(json.loads(line)))
        except json.JSONDecodeError:
            return Reported(epochs, 0)  # the line is still being written
        epochs += 1
    return Reported(epochs, size)


def import_ray() -> Any:
    """Return the Ray module.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("Ray is not installed. Install it with: pip install ray") from None
    return ray
