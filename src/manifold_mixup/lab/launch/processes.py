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
    OnFailure,
    OnNote,
    OnStart,
    OnStep,
    Reports,
    Source,
    data_of,
)
from manifold_mixup.lab.launch.interrupt import ctrl_c
from manifold_mixup.lab.launch.ray import train_on_ray
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.folder import folder_name
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.terminal.warned import show_plainly
from manifold_mixup.lab.training.loop import Stopped, train

Place = Literal["here", "ray"]
NewsQueue: TypeAlias = "SimpleQueue[tuple[Recipe, News]]"


def train_all(
    runs: Sequence[Recipe],
    data: Source,
    *,
    workers: int,
    on_epoch: OnEpoch,
    on_step: OnStep = lambda *_: None,
    on_note: OnNote = lambda *_: None,
    on_start: OnStart = lambda *_: None,
    on_failure: OnFailure | None = None,
    folder: Path | None = None,
    after: After | None = None,
    on: Place = "here",
    gpus: float = 0.0,
) -> Iterator[Result]:
    """Train every run and yield the results as they finish.

    Every run uses one thread, so that its result does not depend on the number of workers.
    Leaving the iterator early stops the current runs.

    Args:
        runs: the recipes, started in this order.
        data: the data that all runs train on, those of each name, or a function from the seed of a
            run to its data.
        workers: the number of runs in parallel; 1 trains in this process.
        on_epoch: called after every epoch of every run.
        on_step: called now and then with the number of epochs a run has done, a fraction.
        on_start: called if a run is resumed or already finished; not for runs on Ray.
        on_note: called with the notes of ``after``; not for runs on Ray.
        on_failure: called with a run that diverged, and its error; the other runs go on. Without
            it, the error is raised.
        folder: the parent of the runs' folders. Finished runs in it are read, and stopped runs are
            resumed.
        after: called in the process that trained a run, once the run is finished.
        on: this machine, or a Ray cluster, which needs a folder and ignores ``workers``.
        gpus: the number of GPUs, or the fraction, that Ray reserves for each run.

    All callbacks except ``after`` are called in this process.

    Raises:
        FloatingPointError: a run diverged, and there is no ``on_failure``.
        KeyboardInterrupt: Ctrl-C was pressed; with a folder, the current runs are saved.
        ChildProcessError: a worker process died.
    """
    reports = Reports(on_epoch, on_step, on_note, on_start, on_failure)
    if on == "ray":
        if folder is None:
            raise ValueError("runs on Ray need a folder, on storage that all nodes share.")
        return train_on_ray(runs, data, reports=reports, folder=folder, after=after, gpus=gpus)
    if workers == 1:
        return _train_here(runs, data, reports, folder, after)
    return _train_in_processes(runs, data, workers, reports, folder, after)


def _train_here(
    runs: Sequence[Recipe],
    source: Source,
    reports: Reports,
    folder: Path | None,
    after: After | None,
) -> Iterator[Result]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for run in runs:
            own, tell = _folder_of(folder, run), partial(reports.tell, run)
            data = data_of(run, source)
            try:
                # Only during training: the code that consumes the results is interrupted as usual.
                with ctrl_c() as stop:
                    result = train(
                        run, data, folder=own, on_epoch=tell, on_step=tell, on_start=tell, stop=stop
                    )
            except FloatingPointError as error:
                reports.fail(run, error)
                continue
            _call_after(after, own, data, tell)
            yield result
    except Stopped as error:
        raise KeyboardInterrupt from error
    finally:
        torch.set_num_threads(threads)


def _train_in_processes(
    runs: Sequence[Recipe],
    source: Source,
    workers: int,
    reports: Reports,
    folder: Path | None,
    after: After | None,
) -> Iterator[Result]:
    context = _context()
    news: NewsQueue = context.SimpleQueue()
    stop = context.Event()
    # Pickled here, as torch would pass tensors through /dev/shm, which is tiny in containers.
    arguments = (pickle.dumps((source, after)), news, stop, folder)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=arguments)
    recipes = dict[Future[Result], Recipe]()
    pending = set[Future[Result]]()
    try:
        with _ctrl_c_ignored():  # the workers inherit this
            recipes |= {pool.submit(_train_in_worker, run): run for run in runs}
        pending |= set(recipes)
        while pending:
            done, pending = _wait(pending, news, reports)
            for future in done:
                if isinstance(error := future.exception(), FloatingPointError):
                    reports.fail(recipes[future], error)
                else:
                    yield future.result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of the {workers} worker processes died, perhaps because memory ran out. "
            "Fewer workers may help (--workers)."
        ) from error
    finally:
        with ctrl_c():
            stop.set()
            _wait_for_end(pending, news)
            pool.shutdown()


def _wait(
    pending: set[Future[Result]], news: NewsQueue, reports: Reports
) -> tuple[set[Future[Result]], set[Future[Result]]]:
    """Wait briefly, pass on the news, and return the runs that are done and those that are not."""
    with ctrl_c() as pressed:  # a message that is half read would block the pipe
        done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
        while not news.empty():
            reports.tell(*news.get())
    if pressed():
        raise KeyboardInterrupt
    return done, pending


# What a first run imports, besides this module: over a second for each worker.
_IMPORTED_LATE = ("torch.utils.tensorboard", "torch._dynamo")


def begin_early() -> None:
    """Start the process that workers are forked from, so that it imports while this one works."""
    if _context().get_start_method() == "forkserver":
        from multiprocessing import forkserver  # not on every system

        forkserver.ensure_running()


def _context() -> Any:
    """Choose the start method of the workers.

    A fork server that has imported the modules starts workers quickly, and they share its memory.
    With a GPU, workers are spawned instead, because CUDA does not survive a fork.
    """
    if torch.cuda.is_available() or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *_IMPORTED_LATE])
    return context


def _wait_for_end(pending: Collection["Future[Result]"], news: "SimpleQueue[Any]") -> None:
    """Wait until the current runs end, and read their news, since a full pipe would block them."""
    for future in pending:
        future.cancel()
    while not all(future.done() for future in pending):
        while not news.empty():
            news.get()
        time.sleep(0.02)


class _Worker(NamedTuple):
    source: Source
    news: NewsQueue
    stop: Event
    folder: Path | None
    after: After | None


_REPORT_EVERY = 0.5  # seconds between reports of steps

_worker: _Worker | None = None  # set in every worker process when it starts


def _start(
    shared: bytes,
    news: NewsQueue,
    stop: Event,
    folder: Path | None,
) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells the workers to stop
    show_plainly()
    torch.set_num_threads(1)
    source, after = pickle.loads(shared)
    _worker = _Worker(source, news, stop, folder, after)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


_busy = threading.Lock()  # held while a run is training


def _end_with_the_parent() -> None:
    """End this process if its parent is killed; the pool itself would wait forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    with _busy:  # the current run notices the parent's end too, and is saved first
        os._exit(1)


def _train_in_worker(run: Recipe) -> Result:
    with _busy:
        return _train_and_report(run)


def _train_and_report(run: Recipe) -> Result:
    if _worker is None:
        raise RuntimeError("this function must run in a worker process of train_all.")
    source, news, stop, folder, after = _worker
    data = data_of(run, source)
    parent = multiprocessing.parent_process()

    def ending() -> bool:
        return stop.is_set() or parent is None or not parent.is_alive()

    def tell(what: News) -> None:
        news.put((run, what))

    last_report = time.monotonic()

    def on_step(done: float) -> None:
        nonlocal last_report
        if time.monotonic() - last_report > _REPORT_EVERY:
            tell(done)
            last_report = time.monotonic()

    def on_note(words: str) -> None:
        if ending():
            raise Stopped(f"{run.method}, seed {run.seed} was stopped after its training.")
        tell(words)

    own = _folder_of(folder, run)
    result = train(
        run, data, folder=own, on_epoch=tell, on_step=on_step, on_start=tell, stop=ending
    )
    _call_after(after, own, data, on_note)
    return result


def _call_after(
    after: After | None, folder: Path | None, data: Data, tell: Callable[[str], None]
) -> None:
    if after is not None and folder is not None:
        after(folder, data, tell)


def _folder_of(folder: Path | None, run: Recipe) -> Path | None:
    return None if folder is None else folder / folder_name(run)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
