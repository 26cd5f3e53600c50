"""Output to the terminal, or to the file or pipe that replaces it."""

from typing import NoReturn

from rich.console import Console as _Console


class Console(_Console):
    """rich's console, except that a closed pipe raises `BrokenPipeError`."""

    def on_broken_pipe(self) -> NoReturn:
        """Raise, so that the command line exits silently with its own status."""
        raise BrokenPipeError
