"""The buttons to start, pause, step and restart, and the status."""

from nicegui import ui

from manifold_mixup.lab.playground.choice import Choice
from manifold_mixup.lab.playground.session import Session


class Bar:
    """The buttons that control a session.

    Args:
        session: the session.
        choice: its settings.
    """

    def __init__(self, session: Session, choice: Choice) -> None:
        self._session = session
        self._choice = choice
        with ui.row().classes("gap-2 items-center"):
            self._run = ui.button("Start", on_click=self._start_or_pause).props("no-caps")
            # Without a colour, a button has the colour of the text, which is readable in dark mode.
            for name, act in (("Step", self._step), ("Restart", self._restart)):
                ui.button(name, on_click=act, color=None).props("no-caps outline")
        self._status = ui.label()

    def restart(self, choice: Choice) -> None:
        """Restart with a choice of settings."""
        self._choice = choice
        self._session.restart(choice)
        self.refresh()

    def refresh(self) -> None:
        """Update the first button and the status."""
        session, frame = self._session, self._session.frame
        self._run.set_text("Pause" if session.running else "Start")
        if session.failure:
            self._status.set_text(f"Stopped: {session.failure}")
        elif frame is not None:
            finished = ", finished" if frame.epoch == frame.epochs else ""
            self._status.set_text(f"epoch {frame.epoch} of {frame.epochs}{finished}")

    def _start_or_pause(self) -> None:
        if self._session.running:
            self._session.pause()
        else:
            if self._session.finished:
                self._session.restart(self._choice)
            self._session.start()
        self.refresh()

    def _restart(self) -> None:
        self.restart(self._choice)

    def _step(self) -> None:
        self._session.step()
        self.refresh()
