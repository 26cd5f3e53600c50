"""Many runs: one after another in this process, or in several worker processes."""

import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from typing import NamedTuple

import torch

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes import Run
from manifold_mixup.lab.train import Epoch, Result, train

OnEpoch = Callable[[Run, Epoch], None]


def train_all(
    runs: Sequence[Run], data: Data, *, workers: int, on_epoch: OnEpoch
) -> Iterator[Result]:
    """Train every run and yield the results as they finish.

    Every run has one thread, so that its result does not depend on how many run beside it.
    Leaving the iterator early stops the runs that are under way.

    Args:
        runs: the recipes; the first ones start first.
        data: what all of them train on.
        workers: how many run at a time; with one, in this process.
        on_epoch: called in this process after every epoch of every run.

    Raises:
        FloatingPointError: a run diverged.
        ChildProcessError: a worker process died.
    """
    if workers == 1:
        return _train_here(runs, data, on_epoch)
    return _train_in_processes(runs, data, workers, on_epoch)


def _train_here(runs: Sequence[Run], data: Data, on_epoch: OnEpoch) -> Iterator[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in runs:
            yield train(run, data, on_epoch=partial(on_epoch, run))
    finally:
        torch.set_num_threads(threads)


def _train_in_processes(
    runs: Sequence[Run], data: Data, workers: int, on_epoch: OnEpoch
) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")
    reports: SimpleQueue[tuple[Run, Epoch]] = context.SimpleQueue()
    stop = context.Event()
    # Plain bytes: torch would otherwise pass tensors through /dev/shm, which is tiny in containers.
    arguments = (pickle.dumps(data), reports, stop)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=arguments)
    try:
        with _ctrl_c_ignored():  # which the workers inherit: the parent tells them when to stop
            pending = {pool.submit(_train_in_worker, run) for run in runs}
        while pending:
            done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
            while not reports.empty():
                on_epoch(*reports.get())
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of the {workers} worker processes died, perhaps for lack of memory. "
            "Fewer may help (--workers)."
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


class _Worker(NamedTuple):
    data: Data
    reports: "SimpleQueue[tuple[Run, Epoch]]"
    stop: Event


_worker: _Worker | None = None  # what a worker process got when it started


def _start(data: bytes, reports: "SimpleQueue[tuple[Run, Epoch]]", stop: Event) -> None:
    global _worker
    torch.set_num_threads(1)
    _worker = _Worker(pickle.loads(data), reports, stop)


def _train_in_worker(run: Run) -> Result:
    if _worker is None:
        raise RuntimeError("this function runs in a worker process of train_all only.")
    data, reports, stop = _worker

    def report(epoch: Epoch) -> None:
        parent = multiprocessing.parent_process()
        if stop.is_set() or parent is None or not parent.is_alive():
            raise InterruptedError("the other runs were stopped.")
        reports.put((run, epoch))

    return train(run, data, on_epoch=report)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
