"""Many runs have the same results in this process and in worker processes."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from after_worker import look_at, look_for_ever
from lab_runs import by_run
from manifold_mixup.lab.data.validation import HeldOut
from manifold_mixup.lab.launch import processes as launching
from manifold_mixup.lab.launch.processes import train_all


def test_with_a_gpu_workers_are_started_without_a_fork(monkeypatch):
    """CUDA does not survive one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert launching._context().get_start_method() == "spawn"
    monkeypatch.undo()
    if not torch.cuda.is_available():
        methods = multiprocessing.get_all_start_methods()
        usual = "forkserver" if "forkserver" in methods else "spawn"
        assert launching._context().get_start_method() == usual


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_runs_on_several_data_sets_have_their_own(task, plain, workers):
    other = replace(task, x=task.x + 1)
    runs = [replace(plain, data=name) for name in ("one", "two")]
    source = {"one": task, "two": other}
    found = by_run(train_all(runs, source, workers=workers, on_epoch=lambda *_: None))
    for run in runs:
        alone = by_run(train_all([run], source[run.data], workers=1, on_epoch=lambda *_: None))
        assert found[run] == alone[run]
    assert len({one.weights for one in found.values()}) == 2


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_worker_processes_change_nothing(task, runs, monkeypatch, gpu):
    """With a GPU, they are started with another method."""
    runs, here, there = runs[1:3], [], []
    alone = by_run(train_all(runs, task, workers=1, on_epoch=lambda *seen: here.append(seen)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    beside = by_run(train_all(runs, task, workers=2, on_epoch=lambda *seen: there.append(seen)))
    assert alone.keys() == set(runs)
    assert alone == beside
    assert sorted(here, key=repr) == sorted(there, key=repr)
    assert len(here) == sum(run.epochs for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_done_with_a_finished_run_is_told(task, runs, tmp_path, workers):
    notes = []
    results = train_all(
        runs[:3],
        task,
        workers=workers,
        on_epoch=lambda *_: None,
        on_note=lambda *seen: notes.append(seen),
        folder=tmp_path,
        after=look_at,
    )
    assert len(list(results)) == 3
    assert sorted(notes, key=repr) == sorted(
        ((run, "looked at 1 result of blobs") for run in runs[:3]), key=repr
    )


@pytest.mark.slow
def test_leaving_early_stops_what_is_done_with_a_finished_run(task, runs, tmp_path):
    class Enough(Exception):
        pass

    def enough(run, words):
        raise Enough

    with pytest.raises(Enough):
        list(
            train_all(
                runs[:2],
                task,
                workers=2,
                on_epoch=lambda *_: None,
                on_note=enough,
                folder=tmp_path,
                after=look_for_ever,
            )
        )
    assert multiprocessing.active_children() == []


KILLED = """
import pickle, sys
from pathlib import Path
from manifold_mixup.lab.launch.processes import train_all
if __name__ == "__main__":
    runs, task, folder = pickle.loads(Path(sys.argv[1]).read_bytes())
    for _ in train_all(runs, task, workers=2, on_epoch=lambda *_: None, folder=folder):
        pass
"""


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(task, runs, tmp_path):
    """Both workers save their current run; none waits for its dead parent."""
    long = [replace(run, epochs=100_000) for run in runs[:2]]
    (tmp_path / "runs.pickle").write_bytes(pickle.dumps((long, task, tmp_path / "out")))
    (tmp_path / "program.py").write_text(KILLED)
    command = [sys.executable, tmp_path / "program.py", tmp_path / "runs.pickle"]
    parent = subprocess.Popen(command, start_new_session=True)
    while sum(1 for _ in tmp_path.glob("out/*/metrics.jsonl")) < 2:
        assert parent.poll() is None
        time.sleep(0.05)
    (server,) = (pid for pid in children(parent.pid) if "forkserver" in command_of(pid))
    workers = children(server)
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    for _ in range(600):
        if not any("forkserver" in command_of(pid) for pid in workers):
            break
        time.sleep(0.05)
    else:
        pytest.fail("the workers live on")
    assert len(list(tmp_path.glob("out/*/checkpoint.safetensors"))) == 2


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def command_of(pid):
    """Return the command line of a process, empty if it does not exist or has ended."""
    path = Path(f"/proc/{pid}/cmdline")
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_leaving_early_stops_the_workers(task, runs):
    long = [replace(run, epochs=100_000) for run in runs[1:]]
    results = train_all([runs[0], *long], task, workers=2, on_epoch=lambda *_: None)
    assert next(results).run == runs[0]
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_workers_that_have_much_to_say_stop_all_the_same(task, plain):
    """If nobody read their news, which exceed a pipe's capacity, they would wait forever."""
    talkative = [replace(plain, epochs=100_000, batch=250, seed=seed) for seed in range(2)]

    def press(*_):
        time.sleep(3)  # the workers continue meanwhile
        raise KeyboardInterrupt

    def too_long(*_):
        raise TimeoutError("the workers did not stop")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(90)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(train_all(talkative, task, workers=2, on_epoch=press))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.slow
def test_ctrl_c_leaves_no_half_read_message_in_the_pipe(task, runs):
    """Its rest would be read as the length of the next message, and block."""
    told = []

    def press(*_):
        told.append("begun")
        os.kill(os.getpid(), signal.SIGINT)
        told.append("ended")

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        list(train_all(runs[:2], task, workers=2, on_epoch=press))
    assert told[:2] == ["begun", "ended"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_failure_in_one_run_comes_out(task, runs):
    broken = replace(runs[0], lr=1e18)
    with pytest.raises(FloatingPointError, match="no mixup, seed 0"):
        list(train_all([broken, *runs], task, workers=1, on_epoch=lambda *_: None))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_that_is_reported_does_not_stop_the_others(task, runs, workers):
    broken, failed = replace(runs[0], lr=1e18), {}
    found = train_all(
        [broken, *runs[1:3]],
        task,
        workers=workers,
        on_epoch=lambda *_: None,
        on_failure=lambda run, error: failed.update({run: str(error)}),
    )
    assert {result.run for result in found} == set(runs[1:3])
    assert set(failed) == {broken}
    assert "no mixup, seed 0: the loss" in failed[broken]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_each_seed_may_have_its_own_data(task, runs, workers):
    runs, split = runs[2::3], HeldOut(task, 0.2)
    found = by_run(train_all(runs, split, workers=workers, on_epoch=lambda *_: None))
    for seed in (0, 1):
        own = [run for run in runs if run.seed == seed]
        alone = by_run(train_all(own, split(seed), workers=1, on_epoch=lambda *_: None))
        assert {run: found[run] for run in own} == alone


def test_the_number_of_threads_is_as_before(task, runs):
    before = torch.get_num_threads()
    next(train_all(runs, task, workers=1, on_epoch=lambda *_: None))
    assert torch.get_num_threads() == before


def test_runs_that_are_kept_are_reused_and_gone_on_with(task, runs, tmp_path):
    whole = by_run(train_all(runs, task, workers=1, on_epoch=lambda *_: None))
    seen = []

    def press(*report):
        seen.append(report)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    results = train_all(runs, task, workers=1, on_epoch=press, folder=tmp_path)
    assert next(results).run == runs[0]
    with pytest.raises(KeyboardInterrupt):
        next(results)
    kept = train_all(
        runs, task, workers=1, on_epoch=lambda *seen_: seen.append(seen_), folder=tmp_path
    )
    assert by_run(kept) == whole
    assert len(seen) == sum(run.epochs for run in runs)  # no epoch twice
    again = train_all(
        runs, task, workers=1, on_epoch=lambda *_: pytest.fail("trained"), folder=tmp_path
    )
    assert by_run(again) == whole
    assert len(list(tmp_path.iterdir())) == len(runs)


def test_pressing_ctrl_c_twice_interrupts_at_once(task, runs):
    def press(*_):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        next(train_all(runs, task, workers=1, on_epoch=press))
    assert signal.getsignal(signal.SIGINT) is before
