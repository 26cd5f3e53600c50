"""The session of an open page: two networks that are trained in a separate thread."""

import math
import threading
import time
from enum import Enum
from typing import NamedTuple

from manifold_mixup.lab.playground.choice import Choice
from manifold_mixup.lab.playground.learner import Learner, Snapshot
from manifold_mixup.lab.playground.paint import paint

_BETWEEN = 0.25  # seconds of training between updates


class Panel(NamedTuple):
    """The data of one network on the page, with its two pictures."""

    sight: Snapshot
    inputs: bytes
    hidden: bytes


class Frame(NamedTuple):
    """Both networks after an epoch.

    Attributes:
        choice: their settings.
        epoch: the number of finished epochs.
        epochs: the number of all epochs.
        panels: no mixup, and the method.
    """

    choice: Choice
    epoch: int
    epochs: int
    panels: tuple[Panel, Panel]


class Session:
    """Trains no mixup and a method side by side, epoch by epoch.

    The methods of this class return at once; a thread does the work. The latest data to show are in
    ``frame``. If an error stopped the training, ``failure`` has its message.

    Args:
        choice: the first settings.
    """

    def __init__(self, choice: Choice) -> None:
        self.frame: Frame | None = None
        self.failure = ""
        self._choice = choice
        self._again = True  # whether new networks must be built
        self._running = False
        self._steps = 0
        self._unseen = False  # whether the last epoch is not yet in ``frame``
        self._closed = False
        self._made_of = choice
        self._learners: tuple[Learner, ...] = ()
        self._looked = -math.inf
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="playground", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the networks are trained until they are paused."""
        return self._running

    @property
    def finished(self) -> bool:
        """Whether all epochs of the recipes are done."""
        return not self._again and bool(self._learners) and self._learners[0].finished

    def start(self) -> None:
        """Train until paused or finished."""
        with self._changed:
            self._running = not self.finished
            self._changed.notify()

    def pause(self) -> None:
        """Stop after the current epoch."""
        with self._changed:
            self._running, self._steps = False, 0

    def step(self) -> None:
        """Train one more epoch, then pause."""
        with self._changed:
            self._running = False
            self._steps += not self.finished
            self._changed.notify()

    def restart(self, choice: Choice) -> None:
        """Start over with new networks; they run if the old ones did."""
        with self._changed:
            self._choice, self._again, self._steps = choice, True, 0
            self.failure = ""
            self._changed.notify()

    def close(self) -> None:
        """End the thread after the current epoch."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self, timeout: float) -> bool:
        """Wait for the thread of a closed session; return whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (todo := self._next()) is not _Todo.END:
            try:
                if todo is _Todo.BUILD:
                    self._learners = _new_learners(self._made_of)
                elif todo is _Todo.LEARN:
                    for one in self._learners:
                        one.learn()
                self._show_if_due()
            except Exception as error:  # the page could not show the error of a dead thread
                with self._changed:
                    self.failure = str(error)
                    self._running, self._steps, self._unseen = False, 0, False

    def _next(self) -> "_Todo":
        """Wait for something to do; record that it has started, and return it."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed or self._again or self._learning or self._unseen
            )
            if self._closed:
                return _Todo.END
            if self._again:
                self._again, self._unseen, self._made_of = False, True, self._choice
                return _Todo.BUILD
            if self._learning:
                self._unseen, self._steps = True, max(self._steps - 1, 0)
                return _Todo.LEARN
            return _Todo.LOOK

    @property
    def _learning(self) -> bool:
        return self._running or self._steps > 0

    def _show_if_due(self) -> None:
        with self._changed:
            if self.finished:
                self._running, self._steps = False, 0
            if self._learning and time.perf_counter() - self._looked < _BETWEEN:
                return
            self._unseen = False
        frame = _frame(self._made_of, self._learners)
        with self._changed:
            self._looked = time.perf_counter()
            if not self._again:  # otherwise these networks have outdated settings
                self.frame = frame


class _Todo(Enum):
    BUILD, LEARN, LOOK, END = range(4)


def _new_learners(choice: Choice) -> tuple[Learner, ...]:
    data = choice.data()
    plain, run = choice.runs()
    return Learner(plain, data), Learner(run, data)


def _frame(choice: Choice, learners: tuple[Learner, ...]) -> Frame:
    first, second = map(_panel, learners)
    return Frame(choice, learners[0].epoch, learners[0].run.epochs, (first, second))


def _panel(learner: Learner) -> Panel:
    sight, data = learner.snapshot(), learner.data
    return Panel(
        sight,
        paint(sight.inputs, data.x, data.y),
        paint(sight.hidden, sight.states, data.y),
    )
