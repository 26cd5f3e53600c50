"""``manifold-mixup report``: one self-contained HTML page about a set of runs."""

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
    """Write one HTML page about runs: comparison, curves, reliability, attacks, recipes.

    The page is self-contained and opens offline. It includes the results of manifold-mixup
    evaluate.
    """

    places: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER ...")]
    """Folders that are runs or contain runs at any depth, all with the same data set."""
    out: Annotated[str, tyro.conf.arg(metavar="PATH")] = PAGE
    """File to write, such as page.html, or a folder to write report.html in."""
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
        ValueError: no folder was given, the runs have different data, or a file is damaged.
        OSError: a folder has no finished run, or the page cannot be written.
    """
    if not options.places:
        raise ValueError(
            "no folder was given. Give folders of runs, or a folder that contains some."
        )
    gathered = gather(options.places)
    out = Path(options.out, PAGE) if _names_a_folder(options.out) else Path(options.out)
    files.writable_folder(out.parent)
    return Prepared(gathered, out, options.title)


def _names_a_folder(out: str) -> bool:
    """Return whether a path exists as a folder, ends in a slash or has no extension."""
    path = Path(out)
    return path.is_dir() or out.endswith(("/", os.sep)) or not (path.suffix or path.is_file())


def run(prepared: Prepared) -> bool:
    """Write the page atomically; return True."""
    from manifold_mixup.lab.report.page import page  # matplotlib takes a second to import

    text = page(prepared.gathered, title=prepared.title)
    files.write(prepared.out, text.encode())
    count = len(prepared.gathered.items)
    print(f"Written: {prepared.out}, from {count} run{'' if count == 1 else 's'}")
    return True
