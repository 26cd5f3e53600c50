"""``manifold-mixup report``: one self-contained HTML page from any set of runs."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from manifold_mixup.lab.report.gather import Gathered, gather
from manifold_mixup.lab.runs import files

PAGE = "report.html"


@dataclass(frozen=True)
class Options:
    """Make one HTML page of runs: comparison, curves, reliability, attacks, recipes.

    It holds all it needs and opens without a network. It also shows what manifold-mixup evaluate
    found of a run.
    """

    places: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER ...")]
    """Folders of runs, or folders with runs somewhere below; all on one data set."""
    out: Annotated[str, tyro.conf.arg(metavar="PATH")] = PAGE
    """The file to write, such as page.html; or a folder, in which it is report.html."""
    title: str = "Manifold Mixup: report"
    """Title of the page."""


@dataclass(frozen=True)
class Prepared:
    """Options whose runs have been read."""

    gathered: Gathered
    out: Path
    title: str


def prepare(options: Options) -> Prepared:
    """Read the runs.

    Raises:
        ValueError: no place was given, the runs are on different data, or a file is damaged.
        OSError: a place holds no finished run, or the page cannot be written.
    """
    if not options.places:
        raise ValueError("no place was given. Name folders of runs, or a folder that holds some.")
    gathered = gather(options.places)
    out = Path(options.out, PAGE) if _names_a_folder(options.out) else Path(options.out)
    files.writable_folder(out.parent)
    return Prepared(gathered, out, options.title)


def _names_a_folder(out: str) -> bool:
    """Tell a folder from a file: it is there, ends in a slash, or has no ending such as .html."""
    path = Path(out)
    return path.is_dir() or out.endswith(("/", os.sep)) or not (path.suffix or path.is_file())


def run(prepared: Prepared) -> bool:
    """Write the page, at once or not at all; say that it was written."""
    from manifold_mixup.lab.report.page import page  # matplotlib takes a second to import

    text = page(prepared.gathered, title=prepared.title)
    files.write(prepared.out, text.encode())
    count = len(prepared.gathered.items)
    print(f"Written: {prepared.out}, of {count} run{'' if count == 1 else 's'}")
    return True
