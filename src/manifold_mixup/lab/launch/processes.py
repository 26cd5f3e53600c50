"""Many runs: one after another in this process, or in several worker processes."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.launch.callbacks import (
    After,
    News,
    OnEpoch,
    OnNote,
    OnStart,
    OnStep,
    Reports,
)
from manifold_mixup.lab.launch.interrupt import ctrl_c
from manifold_mixup.lab.launch.ray import train_on_ray
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.folder import folder_name
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.training.loop import Stopped, train

Place = Literal["here", "ray"]
Told: TypeAlias = "SimpleQueue[tuple[Recipe, News]]"


def train_all(
    runs: Sequence[Recipe],
    data: Data,
    *,
    workers: int,
    on_epoch: OnEpoch,
    on_step: OnStep = lambda *_: None,
    on_note: OnNote = lambda *_: None,
    on_start: OnStart = lambda *_: None,
    folder: Path | None = None,
    after: After | None = None,
    on: Place = "here",
    gpus: float = 0.0,
) -> Iterator[Result]:
    """Train every run and yield the results as they finish.

    Every run has one thread, so that its result does not depend on how many run beside it.
    Leaving the iterator early stops the runs that are under way.

    Args:
        runs: the recipes; the first ones start first.
        data: what all of them train on.
        workers: how many run at a time; with one, in this process.
        on_epoch: called in this process after every epoch of every run.
        on_step: called in this process now and then with the epochs a run has done, parts counted.
        on_start: called in this process with where a run begins that was begun before, but for runs
            on Ray.
        on_note: called in this process with what ``after`` says of a run, but for runs on Ray.
        folder: where each run gets a folder of its own. Runs that are finished there are read, and
            those that were stopped are gone on with.
        after: called once a run is finished, where it was trained, with its folder, the data and
            whom to tell in words how far it is.
        on: this machine, or a Ray cluster, which needs a folder; ``workers`` is then up to Ray.
        gpus: the share of a GPU that a run takes on Ray.

    Raises:
        FloatingPointError: a run diverged.
        KeyboardInterrupt: Ctrl-C was pressed; with a folder, what was under way is saved.
        ChildProcessError: a worker process died.
    """
    reports = Reports(on_epoch, on_step, on_note, on_start)
    if on == "ray":
        if folder is None:
            raise ValueError("runs on Ray need a folder, on storage that all nodes share.")
        return train_on_ray(runs, data, reports=reports, folder=folder, after=after, gpus=gpus)
    if workers == 1:
        return _train_here(runs, data, reports, folder, after)
    return _train_in_processes(runs, data, workers, reports, folder, after)


def _train_here(
    runs: Sequence[Recipe], data: Data, reports: Reports, folder: Path | None, after: After | None
) -> Iterator[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in runs:
            # Only while it trains: whoever takes the results is interrupted as always.
            with ctrl_c() as stop:
                own, tell = _own(folder, run), partial(reports.tell, run)
                result = train(
                    run, data, folder=own, on_epoch=tell, on_step=tell, on_start=tell, stop=stop
                )
            _then(after, own, data, tell)
            yield result
    except Stopped as error:
        raise KeyboardInterrupt from error
    finally:
        torch.set_num_threads(threads)


def _train_in_processes(
    runs: Sequence[Recipe],
    data: Data,
    workers: int,
    reports: Reports,
    folder: Path | None,
    after: After | None,
) -> Iterator[Result]:
    context = _context()
    news: Told = context.SimpleQueue()
    stop = context.Event()
    # Plain bytes: torch would otherwise pass tensors through /dev/shm, which is tiny in containers.
    arguments = (pickle.dumps((data, after)), news, stop, folder)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=arguments)
    pending = set[Future[Result]]()
    try:
        with _ctrl_c_ignored():  # which the workers inherit
            pending |= {pool.submit(_train_in_worker, run) for run in runs}
        while pending:
            done, pending = _wait(pending, news, reports)
            for future in done:
                yield future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of the {workers} worker processes died, perhaps for lack of memory. "
            "Fewer may help (--workers)."
        ) from error
    finally:
        with ctrl_c():
            stop.set()
            _let_end(pending, news)
            pool.shutdown()


def _wait(
    pending: set[Future[Result]], news: Told, reports: Reports
) -> tuple[set[Future[Result]], set[Future[Result]]]:
    """Return which runs are done after a moment and which are not; hand on what they tell."""
    with ctrl_c() as pressed:  # half a message that is left in the pipe blocks the next one
        done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
        while not news.empty():
            reports.tell(*news.get())
    if pressed():
        raise KeyboardInterrupt
    return done, pending


def _context() -> Any:
    """Choose how workers start.

    A server that has imported what they need starts each in a moment, and they share the memory of
    it. But asking for GPUs, as some imports may, must not be followed by a fork.
    """
    if torch.cuda.is_available() or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _let_end(pending: Collection["Future[Result]"], news: "SimpleQueue[Any]") -> None:
    """Wait for the runs under way, and read what they say: a full pipe would hold them up."""
    for future in pending:
        future.cancel()
    while not all(future.done() for future in pending):
        while not news.empty():
            news.get()
        time.sleep(0.02)


class _Worker(NamedTuple):
    data: Data
    news: Told
    stop: Event
    folder: Path | None
    after: After | None


_TELL = 0.5  # seconds between two words about steps

_worker: _Worker | None = None  # what a worker process got when it started


def _start(
    shared: bytes,
    news: Told,
    stop: Event,
    folder: Path | None,
) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent that tells when to stop
    torch.set_num_threads(1)
    data, after = pickle.loads(shared)
    _worker = _Worker(data, news, stop, folder, after)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


_busy = threading.Lock()  # held while a run is trained


def _end_with_the_parent() -> None:
    """End this process once its parent was killed: the pool itself would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    with _busy:  # the run under way notices too, and saves itself
        os._exit(1)


def _train_in_worker(run: Recipe) -> Result:
    with _busy:
        return _train_and_tell(run)


def _train_and_tell(run: Recipe) -> Result:
    if _worker is None:
        raise RuntimeError("this function runs in a worker process of train_all only.")
    data, news, stop, folder, after = _worker
    parent = multiprocessing.parent_process()

    def ending() -> bool:
        return stop.is_set() or parent is None or not parent.is_alive()

    def tell(what: News) -> None:
        news.put((run, what))

    told = time.monotonic()

    def on_step(done: float) -> None:
        nonlocal told
        if time.monotonic() - told > _TELL:
            tell(done)
            told = time.monotonic()

    def on_note(words: str) -> None:
        if ending():
            raise Stopped(f"{run.method}, seed {run.seed} was stopped after its training.")
        tell(words)

    own = _own(folder, run)
    result = train(
        run, data, folder=own, on_epoch=tell, on_step=on_step, on_start=tell, stop=ending
    )
    _then(after, own, data, on_note)
    return result


def _then(
    after: After | None, folder: Path | None, data: Data, tell: Callable[[str], None]
) -> None:
    if after is not None and folder is not None:
        after(folder, data, tell)


def _own(folder: Path | None, run: Recipe) -> Path | None:
    return None if folder is None else folder / folder_name(run)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
