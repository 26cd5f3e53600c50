"""Runs on a real Ray cluster on this machine, whose workers are killed."""

import builtins
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lab_runs import by_run
from manifold_mixup.lab.launch.processes import train_all
from manifold_mixup.lab.runs import folder as kept

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # from Ray and its imports
]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    here = os.pathsep.join(
        [str(Path(__file__).parents[3] / "src"), os.environ.get("PYTHONPATH", "")]
    )
    environment = {"env_vars": {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}}
    print_of_python = builtins.print  # Ray replaces it
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield
    ray.shutdown()
    builtins.print = print_of_python


@pytest.fixture
def long(runs):
    """Two runs that take several seconds."""
    return [replace(run, epochs=100) for run in runs[1:3]]


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


def test_a_killed_worker_is_replaced_and_its_run_gone_on_with(task, long, tmp_path):
    long = long[:1]
    alone = by_run(train_all(long, task, workers=1, on_epoch=lambda *_: None))
    seen, killed = [], []

    def on_epoch(run, epoch):
        seen.append((run, epoch.epoch))
        if not killed:
            killed.extend(workers())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    there = by_run(train_all(long, task, workers=1, on_epoch=on_epoch, folder=tmp_path, on="ray"))
    assert killed
    assert there == alone
    assert sorted(seen, key=repr) == sorted(set(seen), key=repr)
    assert {run for run, _ in seen} == set(long)


def test_what_is_finished_is_read(task, runs, tmp_path):
    once = by_run(train_all(runs, task, workers=1, on_epoch=lambda *_: None, folder=tmp_path))
    again = train_all(runs, task, workers=1, on_epoch=lambda *_: None, folder=tmp_path, on="ray")
    assert by_run(again) == once


def test_leaving_early_saves_what_is_under_way(task, runs, long, tmp_path):
    endless = replace(long[0], epochs=100_000)
    results = train_all(
        [runs[0], endless], task, workers=1, on_epoch=lambda *_: None, folder=tmp_path, on="ray"
    )
    assert next(results).run == runs[0]
    own = tmp_path / kept.folder_name(endless)
    while not (own / "metrics.jsonl").exists():
        time.sleep(0.1)
    results.close()
    assert (own / "checkpoint.safetensors").exists()


def test_a_failure_in_one_run_comes_out(task, runs, tmp_path):
    broken = replace(runs[0], lr=1e18)
    with pytest.raises(FloatingPointError, match="no mixup, seed 0"):
        list(train_all([broken], task, workers=1, on_epoch=print, folder=tmp_path, on="ray"))


def test_a_folder_is_needed(task, runs):
    with pytest.raises(ValueError, match="runs on Ray need a folder"):
        train_all(runs, task, workers=1, on_epoch=print, on="ray")
