"""The process that runs on Ray for the tests.

Ray's native code ends the process that drives a cluster if anything goes wrong in it, at the
latest while it is shut down. That process is not pytest's.
"""

import os
import signal
import time
from pathlib import Path

from lab_runs import by_run
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.data.validation import Split
from manifold_mixup.lab.launch import ray as on_ray
from manifold_mixup.lab.launch.processes import train_all
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import folder as kept
from manifold_mixup.lab.runs.result import Result

Runs = tuple[Recipe, ...]
SOURCE = str(Path(__file__).parents[2] / "src")


def start() -> None:
    """Start a cluster of two processors on this machine."""
    import ray

    # Workers inherit it. Those that Ray starts ahead of time are of no use to a `runtime_env`.
    os.environ["PYTHONPATH"] = os.pathsep.join([SOURCE, os.environ.get("PYTHONPATH", "")])
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    on_ray._POLL = 0.1  # a second is longer than some of the runs


def stop() -> None:
    import ray

    ray.shutdown()


def trained(runs: Runs, task: Data, folder: Path) -> dict[Recipe, Result]:
    return by_run(
        train_all(runs, task, workers=1, on_epoch=lambda *_: None, folder=folder, on="ray")
    )


def trained_but(
    runs: Runs, split: Split, folder: Path
) -> tuple[dict[Recipe, Result], dict[Recipe, str]]:
    """Train runs, each on the data of its seed; return the results and the failures."""
    failed: dict[Recipe, str] = {}
    there = train_all(
        runs,
        split,
        workers=1,
        on_epoch=lambda *_: None,
        on_failure=lambda run, error: failed.update({run: str(error)}),
        folder=folder,
        on="ray",
    )
    return by_run(there), failed


def divergence(runs: Runs, task: Data, folder: Path) -> str:
    """Return the message of the error that a diverging run raises, which Ray gives a class that
    cannot be pickled."""
    try:
        trained(runs, task, folder)
    except FloatingPointError as error:
        return str(error)
    raise AssertionError("no run diverged")


def trained_despite_kills(
    runs: Runs, task: Data, folder: Path
) -> tuple[dict[Recipe, Result], list[tuple[Recipe, int]], list[int]]:
    """Train, and kill the processes that train after the first epoch that is reported.

    Returns:
        the results, the epochs that were reported, and the processes that were killed.
    """
    seen, killed = [], []

    def on_epoch(run, epoch):
        seen.append((run, epoch.epoch))
        if not killed:
            killed.extend(workers())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    there = train_all(runs, task, workers=1, on_epoch=on_epoch, folder=folder, on="ray")
    return by_run(there), seen, killed


def left_early(first: Recipe, endless: Recipe, task: Data, folder: Path) -> Recipe:
    """Train two runs, and leave once the first has ended and the other begun.

    Returns:
        the run that ended.
    """
    results = train_all(
        [first, endless], task, workers=1, on_epoch=lambda *_: None, folder=folder, on="ray"
    )
    ended = next(results).run
    own = folder / kept.folder_name(endless)
    while not (own / "metrics.jsonl").exists():
        time.sleep(0.1)
    results.close()
    return ended


def workers() -> list[int]:
    """Return the processes in which Ray trains."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"_train" in name:
            found.append(int(path.parent.name))
    return found
