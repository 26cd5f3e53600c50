"""The terminal, or the file or pipe that stands in its place."""

from typing import NoReturn

from rich.console import Console as _Console


class Console(_Console):
    """rich's console, but that a pipe nobody reads any more raises `BrokenPipeError`."""

    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command, which then ends without a word."""
        raise BrokenPipeError
