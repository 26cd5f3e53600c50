"""What ``tune`` prints, and writes to its tables."""

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import replace

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.commands.tune.options import Options
from manifold_mixup.lab.commands.tune.tuning import Tuning
from manifold_mixup.lab.recipes.command import train_command
from manifold_mixup.lab.report.summary import summarise
from manifold_mixup.lab.report.table import LAST_EPOCH, markdown_table, terminal_table
from manifold_mixup.lab.report.tuning_table import FINALISTS, finalists_markdown, finalists_table
from manifold_mixup.lab.report.tuning_words import LOOK, settings_lines, verdict
from manifold_mixup.lab.report.unmoved import unmoved_in
from manifold_mixup.lab.runs import files
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.search.final import Finalist, winner
from manifold_mixup.lab.search.study import StudyFile
from manifold_mixup.lab.terminal.console import Console


def print_lines(lines: Sequence[str], console: Console) -> None:
    """Print lines that are wrapped below their second column."""
    for line in lines:
        column = line.rfind("  ") + 2 if "  " in line.strip() else 0
        words = textwrap.wrap(line, console.width, subsequent_indent=" " * column) or [""]
        console.print("\n".join(words), markup=False, highlight=False, soft_wrap=True)


def show_finalists(
    tuning: Tuning, study: StudyFile, finalists: Sequence[Finalist], console: Console
) -> Finalist:
    """Print the finalists and the command of the best; return it.

    Raises:
        FloatingPointError: all trials of all ways failed.
    """
    metric, options = tuning.search.metric, tuning.options
    chosen = winner(finalists, metric)
    if chosen is None:
        raise FloatingPointError(
            f"no way has a finalist: {finalists[0].reason}. Smaller learning rates may help "
            f"(--lr), in another study (--study)."
        )
    seeds = options.final_seeds
    title = f"The best trial of each way on {seeds} fresh seed{'s' * (seeds > 1)} (validation)"
    console.print()
    console.print(finalists_table(finalists, study, metric, title=title))
    print_lines(["", *settings_lines(finalists), "", FINALISTS], console)
    console.print(
        verdict(chosen, finalists[0], metric), style="bold", markup=False, highlight=False
    )
    markdown = finalists_markdown(finalists, study, metric, title=title)
    files.write(tuning.folder / "table.md", markdown.encode())
    console.print("\nTo train it:", highlight=False)
    console.print(
        f"  {_training_command(tuning, chosen)}", markup=False, highlight=False, soft_wrap=True
    )
    return chosen


def _training_command(tuning: Tuning, chosen: Finalist) -> str:
    options = tuning.options
    words = train_command(
        replace(chosen.run, seed=0),
        recipe=options.recipe,
        mixing=chosen.way.name,
        data=options.data,
        root=None if options.root == Options.root else options.root,
        target_std=datasets.target_std(options.data),
    )
    return shlex.join(words)


def show_test_results(
    tuning: Tuning, results: Sequence[Result], methods: list[str], console: Console
) -> None:
    """Print the results for the test set, and add them to the table of the finalists."""
    rows = [row for row in summarise(results, methods) if row.when == "last"]
    title = "Test set, last epoch"
    caption = f"Trained on {tuning.validation.retrained}. {LOOK}"
    if still := unmoved_in(results, methods):
        caption += f" {still}"
    console.print()
    console.print(terminal_table(rows, title=title, width=console.width))
    print_lines([f"{LAST_EPOCH} {caption}"], console)
    first = next(
        result for result in results if result.run.seed == 0 and result.run.method == methods[-1]
    )
    last = first.last
    score = f"RMSE is {last.rmse:.4f}" if first.run.regression else f"error is {last.error:.2f} %"
    console.print(f"The command above has seed 0, whose test {score}.", highlight=False)
    text = markdown_table(rows, title=title, caption=caption)
    path = tuning.folder / "table.md"  # which has the finalists already
    files.write(path, f"{path.read_text()}\n{text}".encode())
