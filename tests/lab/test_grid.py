"""Many runs end as they do one by one, in this process and in others."""

import multiprocessing
from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab.grid import train_all


def by_run(results):
    return {result.run: replace(result, seconds=0) for result in results}


@pytest.mark.slow
def test_worker_processes_change_nothing(task, runs):
    here, there = [], []
    alone = by_run(train_all(runs, task, workers=1, on_epoch=lambda *seen: here.append(seen)))
    beside = by_run(train_all(runs, task, workers=2, on_epoch=lambda *seen: there.append(seen)))
    assert alone.keys() == set(runs)
    assert alone == beside
    assert sorted(here, key=repr) == sorted(there, key=repr)
    assert len(here) == sum(run.epochs for run in runs)


@pytest.mark.slow
def test_leaving_early_stops_the_workers(task, runs):
    long = [replace(run, epochs=100_000) for run in runs[1:]]
    results = train_all([runs[0], *long], task, workers=2, on_epoch=lambda *_: None)
    assert next(results).run == runs[0]
    results.close()
    assert multiprocessing.active_children() == []


def test_a_failure_in_one_run_comes_out(task, runs):
    broken = replace(runs[0], lr=1e18)
    with pytest.raises(FloatingPointError, match="no mixup, seed 0"):
        list(train_all([broken, *runs], task, workers=1, on_epoch=lambda *_: None))


def test_the_number_of_threads_is_as_before(task, runs):
    before = torch.get_num_threads()
    next(train_all(runs, task, workers=1, on_epoch=lambda *_: None))
    assert torch.get_num_threads() == before
