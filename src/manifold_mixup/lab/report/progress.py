"""Live progress: the state of all runs, and the time left."""

import math
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Column
from rich.text import Text

from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.result import Epoch, Result, Start

_WIDE = 100  # with at least so many columns, bars are long
_NARROW = 60  # with fewer columns, there are no bars
_NAME = 24  # columns of a run's name
_PROGRESS_COLUMNS = 27  # columns of the epoch and the time left
_LINES = 20  # lines about each of several runs; one run has a line for every epoch


class Live:
    """Shows bars on a terminal, or else lines about epochs and each finished run.

    A single run has a line for each epoch; several have twenty lines each at most.

    Args:
        runs: all runs that will be trained.
        console: the console to print on.
        title: the title of the bar of all runs.
        held_out: whether the runs are measured on validation examples instead of the test set; by
            default, as their recipes say.
        lines: whether epochs and finished runs get lines if the console is not a terminal.
    """

    def __init__(
        self,
        runs: Sequence[Recipe],
        console: Console,
        *,
        title: str = "all runs",
        held_out: bool = False,
        lines: bool = True,
    ) -> None:
        self._console = console
        self._held_out = held_out
        self._lines = lines and not console.is_terminal
        self._bars = Progress(
            *_columns(console.width),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task(
            title,
            total=sum(run.epochs for run in runs),
            far=f"0/{len(runs)} runs",
            note="",
            visible=len(runs) > 1,
        )
        self._room = (
            _NAME if console.width >= _NARROW else max(12, console.width - _PROGRESS_COLUMNS)
        )
        self._tasks: dict[Recipe, TaskID] = {}
        self._done: dict[Recipe, float] = {}
        self._before: set[Recipe] = set()
        self._finished, self._count = 0, len(runs)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()
        if kind is None and self._before:
            self._say(self._reused())

    def start(self, run: Recipe, start: Start) -> None:
        """Print where a run is resumed, or note that it was already finished."""
        if start.finished:
            self._before.add(run)
            return
        where = f"in epoch {start.epoch} of {run.epochs}"
        if start.epoch > run.epochs:
            where = f"after its last epoch, {run.epochs}"
        steps = f", after {start.step} of {start.steps} steps" if start.step else ""
        self._say(f"{_name(run)}: resumed {where}{steps}")

    def step(self, run: Recipe, done: float) -> None:
        """Update the bars to the number of epochs that a run has done, a fraction."""
        self._bars.advance(self._all, done - self._done.get(run, 0.0))
        self._bars.update(self._bar(run), completed=done, far=_far(run, done))
        self._done[run] = done

    def epoch(self, run: Recipe, epoch: Epoch) -> None:
        """Show the metrics of an epoch of a run."""
        self.step(run, epoch.epoch)
        loss = _short(epoch.train_loss)
        self.note(run, f"loss {loss}{self._measured(run, epoch, short=True)}")
        if self._lines and self._has_line(run, epoch):
            measured = self._measured(run, epoch, short=False)
            self._say(
                f"{_name(run)}: epoch {epoch.epoch}/{run.epochs}, train loss {loss}{measured}"
            )

    def _measured(self, run: Recipe, epoch: Epoch, *, short: bool) -> str:
        """Return the scores of an epoch after a comma, or nothing if it was not evaluated."""
        if math.isnan(epoch.error):
            return ""
        examples = "validation" if self._held_out or run.validation else "test"
        if run.regression:
            return f", {examples} RMSE {epoch.error:.4g}"
        if short:
            return f", {examples} error {epoch.error:.1f} %"
        return f", {examples} error {epoch.error:.2f} %, NLL {_short(epoch.nll)}"

    def _has_line(self, run: Recipe, epoch: Epoch) -> bool:
        """Return whether an epoch has a line."""
        every = 1 if self._count == 1 else math.ceil(run.epochs / _LINES)
        return epoch.epoch % every == 0 or epoch.epoch == run.epochs

    def note(self, run: Recipe, words: str) -> None:
        """Show a note beside the bar of a run."""
        self._bars.update(self._bar(run), note=words)

    def finished(self, result: Result) -> None:
        """Remove the bar of a finished run, or print its result."""
        self._end(result.run)
        if self._lines:
            last = result.last
            scores = f"error {last.error:.2f} %, NLL {last.nll:.3f}"
            if result.run.regression:
                scores = f"RMSE {last.rmse:.4g}, R² {last.r2:.4f}"
            took = "already finished" if result.run in self._before else f"{result.seconds:.1f} s"
            self._say(f"[{self._finished}/{self._count}] {_name(result.run)}: {scores}, {took}")

    def failed(self, run: Recipe) -> None:
        """Remove the bar of a run that diverged."""
        self._end(run)

    def _end(self, run: Recipe) -> None:
        self._finished += 1
        self._bars.advance(self._all, run.epochs - self._done.pop(run, 0.0))
        if run in self._tasks:
            self._bars.remove_task(self._tasks.pop(run))
        self._bars.update(self._all, far=f"{self._finished}/{self._count} runs")

    def _bar(self, run: Recipe) -> TaskID:
        if run not in self._tasks:
            self._tasks[run] = self._bars.add_task(
                _name(run, self._room), total=run.epochs, far=_far(run, 0.0), note=""
            )
        return self._tasks[run]

    def _reused(self) -> str:
        """Return how many runs were already finished."""
        if self._count == 1:
            return "The run was already finished: nothing was trained."
        rest = ": nothing was trained" if len(self._before) == self._count else ""
        verb = "was" if len(self._before) == 1 else "were"
        return f"{len(self._before)} of {self._count} runs {verb} already finished{rest}."

    def _say(self, line: str) -> None:
        """Print a permanent line, above the bars if there are any."""
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class _TimeLeft(TimeLeft):
    """The time left, such as ``1:23 left``."""

    def render(self, task: Task) -> Text:
        """Return the time left, or dashes while it is unknown."""
        return Text.assemble(super().render(task), " left")


def _columns(width: int) -> list[ProgressColumn]:
    """Return the columns of each run; only the note may be cut off."""
    uncut = Column(no_wrap=True)
    bar = [BarColumn(bar_width=24 if width >= _WIDE else 8)]
    note = TextColumn(
        "{task.fields[note]}",
        markup=False,
        table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
    )
    return [
        TextColumn("{task.description}", markup=False, table_column=uncut.copy()),
        *(bar if width >= _NARROW else []),
        TextColumn("{task.fields[far]}", markup=False, table_column=uncut.copy()),
        _TimeLeft(compact=True, table_column=uncut.copy()),
        *([note] if width >= _NARROW else []),
    ]


def _short(number: float) -> str:
    """Return a loss with three decimals, or with a power of ten if it is huge."""
    return f"{number:.3f}" if abs(number) < 1e5 else f"{number:.3g}"


def _far(run: Recipe, done: float) -> str:
    """Return the current epoch of the total."""
    return f"epoch {min(int(done) + 1, run.epochs)}/{run.epochs}"


def _name(run: Recipe, room: int = 1000) -> str:
    """Return the name of a run; if it is too long, the method is cut off, but not the seed."""
    seed = f", seed {run.seed}"
    method = run.method
    if len(method) + len(seed) > room:
        method = f"{method[: room - len(seed) - 1]}…"
    return f"{method}{seed}"
