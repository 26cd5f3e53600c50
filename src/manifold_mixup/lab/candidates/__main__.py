"""``python -m manifold_mixup.lab.candidates``: develop, confirm, and the table of all tasks."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from manifold_mixup.lab.candidates import rounds
from manifold_mixup.lab.candidates.explored import EXPLORED
from manifold_mixup.lab.candidates.registered import CANDIDATES
from manifold_mixup.lab.candidates.table import markdown, verdicts, without_tests
from manifold_mixup.lab.runs import files
from manifold_mixup.lab.suggest import unknown

TABLE = "table.md"


def main(args: Sequence[str] | None = None) -> int:
    """Run a round of some tasks, or write the table; return the exit status."""
    options = _options(args)
    known = {one.name: one for one in (*CANDIDATES, *EXPLORED)}
    for name in options.names:
        if name not in known:
            print(f"{unknown('task', name, known)}.", file=sys.stderr)
            return 2
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * options.minutes
    if options.round != "table":
        todo = {"develop": rounds.develop, "confirm": rounds.confirm}[options.round]
        for name in options.names or [one.name for one in CANDIDATES]:
            arguments = {"root": options.root.expanduser(), "out": options.out}
            if not todo(known[name], **arguments, should_stop=lambda: time.monotonic() > end):
                print(f"The time is up. The same command resumes, with {name}.")
                return 1
        if options.round == "develop":
            return 0
    _write_tables(options.names, options.out)
    return 0


def _write_tables(names: Sequence[str], out: Path) -> None:
    """Write the table of all registered tasks, or those of explored ones that are named."""
    explored = {one.name: one for one in EXPLORED if one.name in names}
    texts = {f"{name}.md": without_tests(verdicts([one], out)) for name, one in explored.items()}
    if not names or explored.keys() < set(names):
        texts[TABLE] = markdown(verdicts(CANDIDATES, out))
    for name, text in texts.items():
        files.write(out / name, text.encode())
        print(text)


def _options(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m manifold_mixup.lab.candidates", description=__doc__
    )
    parser.add_argument("round", choices=["develop", "confirm", "table"])
    parser.add_argument("names", nargs="*", help="tasks; all registered ones if none is named")
    parser.add_argument("--root", type=Path, default=Path("~/.cache/manifold-mixup"))
    parser.add_argument("--out", type=Path, default=Path("results/candidates"))
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no run after that time"
    )
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
