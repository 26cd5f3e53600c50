"""``manifold-mixup report``: one self-contained HTML page from any set of runs."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from manifold_mixup.lab import files
from manifold_mixup.lab.report.gather import Gathered, gather


@dataclass(frozen=True)
class Report:
    """Make one HTML page of runs: comparison, curves, reliability, attacks, recipes.

    It holds all it needs and opens without a network. What `evaluate` found of a run is shown too.
    """

    places: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs, or folders with runs somewhere below; all on one data set."""
    out: Path = Path("report.html")
    """The file to write."""
    title: str = "Manifold Mixup: report"
    """The page's."""


@dataclass(frozen=True)
class Prepared:
    """A `Report` whose runs have been read."""

    gathered: Gathered
    out: Path
    title: str


def prepare(options: Report) -> Prepared:
    """Read the runs.

    Raises:
        ValueError: no place was given, the runs are on different data, or a file is damaged.
        OSError: a place holds no finished run, or the page cannot be written.
    """
    if not options.places:
        raise ValueError("no place was given. Name folders of runs, or a folder that holds some.")
    gathered = gather(options.places)
    files.writable_folder(options.out.parent)
    return Prepared(gathered, options.out, options.title)


def report(prepared: Prepared) -> bool:
    """Write the page, at once or not at all; say that it was written."""
    from manifold_mixup.lab.report.page import page  # matplotlib takes a second to import

    text = page(prepared.gathered, title=prepared.title)
    files.write(prepared.out, text.encode())
    count = len(prepared.gathered.items)
    print(f"Written: {prepared.out}, of {count} run{'' if count == 1 else 's'}")
    return True
