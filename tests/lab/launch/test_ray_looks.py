"""What the driver of many Ray tasks reads of their folders, and how often; no cluster is needed."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest

from manifold_mixup.lab.launch import ray as launch
from manifold_mixup.lab.launch.callbacks import Reports
from manifold_mixup.lab.runs.metrics_log import METRICS

LINE = '{"epoch": %d}\n'
NOTHING = launch.Reported(0, 0)


@pytest.fixture
def told(monkeypatch):
    """Epochs that were reported, as their fields."""
    seen = []
    monkeypatch.setattr(launch, "read_epoch", lambda fields: fields["epoch"])
    monkeypatch.setattr(Reports, "tell", lambda _, run, news: seen.append((run, news)))
    return seen


@pytest.fixture
def read(monkeypatch):
    """Logs that were read."""
    paths, read_text = [], Path.read_text
    monkeypatch.setattr(
        Path, "read_text", lambda path, *a, **k: paths.append(path) or read_text(path, *a, **k)
    )
    return paths


def look(run, log, before=NOTHING):
    return launch._report_new_epochs(run, log, Reports(on_epoch=print), before)


def test_a_log_that_did_not_grow_is_not_read_again(runs, tmp_path, told, read):
    run, log = runs[0], tmp_path / METRICS
    log.write_text(LINE % 1 + LINE % 2)
    first = look(run, log)
    assert look(run, log, first) == first
    assert len(read) == 1
    with log.open("a") as more:
        more.write(LINE % 3)
    look(run, log, first)
    assert [news for _, news in told] == [1, 2, 3]


def test_a_run_that_has_not_begun_is_not_read(runs, tmp_path, told, read):
    assert look(runs[0], tmp_path / METRICS) == NOTHING
    assert not told
    assert not read


def test_a_line_that_is_still_written_is_told_once_it_is_complete(runs, tmp_path, told, read):
    run, log = runs[0], tmp_path / METRICS
    log.write_text(LINE % 1 + '{"epo')
    before = look(run, log)
    log.write_text(LINE % 1 + LINE % 2)
    look(run, log, before)
    assert [news for _, news in told] == [1, 2]


class FakeRay(SimpleNamespace):
    """Tasks that end one after the other; `waits` are the seconds that the driver rests."""

    def __init__(self):
        super().__init__(waits=[], cancelled=[])
        self.exceptions = SimpleNamespace(
            WorkerCrashedError=OSError, NodeDiedError=OSError, OutOfMemoryError=MemoryError
        )

    def is_initialized(self):
        return True

    def put(self, value):
        return value

    def remote(self, **_):
        numbers = itertools.count()
        return lambda train: SimpleNamespace(remote=lambda *_: next(numbers))

    def wait(self, tasks, *, num_returns, timeout):
        assert num_returns == len(tasks)  # all that are ready, not one
        self.waits.append(timeout)
        return tasks[:1], tasks[1:]

    def get(self, task):
        return task


def test_looks_take_a_tenth_of_the_time_however_many_runs_there_are(runs, tmp_path, monkeypatch):
    clock, ray = [0.0], FakeRay()

    def slow(run, log, reports, told):
        clock[0] += 2.0  # a network drive
        return told

    monkeypatch.setattr(launch, "import_ray", lambda: ray)
    monkeypatch.setattr(launch, "_report_new_epochs", slow)
    monkeypatch.setattr(launch.time, "perf_counter", lambda: clock[0])
    results = launch.train_on_ray(runs[:3], None, reports=Reports(on_epoch=print), folder=tmp_path)
    assert list(results) == [0, 1, 2]
    assert ray.waits == [1.0, 9 * 6.0, 9 * 4.0]
