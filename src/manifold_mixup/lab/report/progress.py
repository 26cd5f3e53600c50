"""Live progress: how far all runs are, the time left, and what each one is doing."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from manifold_mixup.lab.recipes import Run
from manifold_mixup.lab.results import Epoch, Result


class Live:
    """Shows bars on a terminal; elsewhere one line for each finished run.

    Args:
        runs: everything that will be trained.
        console: where to show it.
    """

    def __init__(self, runs: Sequence[Run], console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("left  {task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._all = self._bars.add_task(
            "[bold]all runs",
            total=sum(run.epochs for run in runs),
            note=f"0 of {len(runs)} done",
            visible=len(runs) > 1,
        )
        self._tasks: dict[Run, TaskID] = {}
        self._done: dict[Run, float] = {}
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

    def step(self, run: Run, done: float) -> None:
        """Move the bars on to so many epochs of a run, parts counted."""
        self._bars.advance(self._all, done - self._done.get(run, 0.0))
        self._bars.update(self._bar(run), completed=done)
        self._done[run] = done

    def epoch(self, run: Run, epoch: Epoch) -> None:
        """Note what an epoch of a run ended in."""
        self.step(run, epoch.epoch)
        of = "test" if run.validation == 0 else "validation"
        note = f"train loss {epoch.train_loss:.3f}  {of} error {epoch.error:.1f} %"
        self.note(run, note)

    def note(self, run: Run, words: str) -> None:
        """Say what a run is doing."""
        self._bars.update(self._bar(run), note=words)

    def _bar(self, run: Run) -> TaskID:
        if run not in self._tasks:
            self._tasks[run] = self._bars.add_task(_name(run), total=run.epochs, note="")
        return self._tasks[run]

    def finished(self, result: Result) -> None:
        """Take a run's bar away."""
        self._finished += 1
        self._bars.advance(self._all, result.run.epochs - self._done.pop(result.run, 0.0))
        if result.run in self._tasks:
            self._bars.remove_task(self._tasks.pop(result.run))
        self._bars.update(self._all, note=f"{self._finished} of {self._count} done")
        if not self._console.is_terminal:
            scores = f"error {result.last.error:.2f} %, NLL {result.last.nll:.3f}"
            done = f"[{self._finished}/{self._count}]"
            self._console.print(
                f"{done} {_name(result.run)}: {scores}, {result.seconds:.1f} s", markup=False
            )


def _name(run: Run) -> str:
    return f"{run.method}, seed {run.seed}"
