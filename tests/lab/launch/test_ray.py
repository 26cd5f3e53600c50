"""Runs on a real Ray cluster on this machine, whose workers are killed."""

from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context

import pytest

import ray_driver
from lab_runs import by_run
from manifold_mixup.lab.data.validation import HeldOut
from manifold_mixup.lab.launch.processes import train_all
from manifold_mixup.lab.runs import folder as kept

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def driver():
    """A function that calls one of `ray_driver` in the process that has the cluster."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=ray_driver.start) as pool:
        yield lambda function, *arguments: pool.submit(function, *arguments).result()
        with suppress(BrokenExecutor):
            pool.submit(ray_driver.stop).result()


@pytest.fixture
def long(runs):
    """Two runs that take several seconds."""
    return [replace(run, epochs=100) for run in runs[1:3]]


def test_a_killed_worker_is_replaced_and_its_run_gone_on_with(driver, task, long, tmp_path):
    long = long[:1]
    alone = by_run(train_all(long, task, workers=1, on_epoch=lambda *_: None))
    there, seen, killed = driver(ray_driver.trained_despite_kills, long, task, tmp_path)
    assert killed
    assert there == alone
    assert sorted(seen, key=repr) == sorted(set(seen), key=repr)
    assert {run for run, _ in seen} == set(long)


@pytest.mark.thorough  # a run that is gone on with is read too, and so it is in all places
def test_what_is_finished_is_read(driver, task, runs, tmp_path):
    once = by_run(train_all(runs, task, workers=1, on_epoch=lambda *_: None, folder=tmp_path))
    assert driver(ray_driver.trained, runs, task, tmp_path) == once


def test_leaving_early_saves_what_is_under_way(driver, task, runs, long, tmp_path):
    endless = replace(long[0], epochs=100_000)
    assert driver(ray_driver.left_early, runs[0], endless, task, tmp_path) == runs[0]
    assert (tmp_path / kept.folder_name(endless) / "checkpoint.safetensors").exists()


@pytest.mark.thorough  # the next one reports it; raising is common to all places
def test_a_failure_in_one_run_comes_out(driver, task, runs, tmp_path):
    broken = replace(runs[0], lr=1e18)
    assert "no mixup, seed 0" in driver(ray_driver.divergence, [broken], task, tmp_path)


def test_a_failure_that_is_reported_does_not_stop_the_others(driver, task, runs, tmp_path):
    broken, split = replace(runs[0], lr=1e18), HeldOut(task, 0.2)
    there, failed = driver(ray_driver.trained_but, [broken, *runs[3:5]], split, tmp_path)
    assert there == by_run(train_all(runs[3:5], split(1), workers=1, on_epoch=lambda *_: None))
    assert set(failed) == {broken}
    assert "no mixup, seed 0: the loss" in failed[broken]


def test_a_folder_is_needed(task, runs):
    with pytest.raises(ValueError, match="runs on Ray need a folder"):
        train_all(runs, task, workers=1, on_epoch=print, on="ray")
