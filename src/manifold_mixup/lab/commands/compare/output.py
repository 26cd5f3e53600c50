"""What ``compare`` prints, and its table and picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifold_mixup.lab.commands.compare.comparison import Comparison
from manifold_mixup.lab.commands.compare.results_file import origin
from manifold_mixup.lab.recipes import generated
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.power import power_text
from manifold_mixup.lab.report.summary import Row, complete_seeds
from manifold_mixup.lab.report.table import LEGEND, SMOKE, markdown_table, terminal_table
from manifold_mixup.lab.report.unmoved import unmoved_in
from manifold_mixup.lab.runs import files
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.terminal.console import Console

_MOST_BOUNDARIES = 5


def show_results(
    comparison: Comparison,
    rows: list[Row],
    results: Sequence[Result],
    head: Mapping[str, Any],
    console: Console,
) -> None:
    """Print the table and what belongs below it; write table.md and the picture."""
    title, caption, smoke = comparison.title, comparison.caption, comparison.smoke
    console.print(terminal_table(rows, title=title, width=console.width))
    seeds = complete_seeds(results, comparison.methods)
    shown = [result for result in results if result.run.seed in seeds]
    power, still = power_text(rows), unmoved_in(shown, comparison.methods)
    for paragraph in (SMOKE if smoke else LEGEND, *comparison.notes, still, power):
        if paragraph:
            console.print(paragraph, markup=False, highlight=False)
    markdown = markdown_table(rows, title=title, caption=caption, smoke=smoke)
    markdown += "".join(f"\n{paragraph}\n" for paragraph in (still, power) if paragraph)
    markdown += f"\n{origin(head)}\n"
    files.write(comparison.out / "table.md", markdown.encode())
    pictures = _save_picture(comparison, rows, shown)
    written = [comparison.out / "results.json", comparison.out / "table.md", *pictures]
    console.print(f"Written: {', '.join(map(str, written))}", markup=False, soft_wrap=True)


def _save_picture(
    comparison: Comparison, rows: list[Row], results: Sequence[Result]
) -> Sequence[Path]:
    """Draw compare.png and compare.svg; return their paths."""
    # matplotlib takes a second to import
    from manifold_mixup.lab.report import plots
    from manifold_mixup.lab.report.paper_picture import input_view

    spirals = {
        name: input_view(
            comparison.folder / run_folder.folder_name(run), comparison.sources[run.data]
        )
        for name, run in finished_spirals(comparison).items()
    }
    picture = plots.comparison_picture(
        results, rows, title=comparison.title, smoke=comparison.smoke, spirals=spirals
    )
    return plots.save(picture, comparison.out / "compare")


def finished_spirals(comparison: Comparison) -> dict[str, Recipe]:
    """Return the finished runs on spirals whose boundaries are drawn, by method.

    They are those of Figure 1, or the first seed's if the comparison itself is about spirals, of
    as many methods as fit beside each other.
    """
    first = comparison.runs[: min(len(comparison.methods), _MOST_BOUNDARIES)]
    own = comparison.boundaries and generated.source(first[0].data) in generated.SPIRALS
    runs = {_short_name(run.method): run for run in first} if own else {}
    runs |= {_short_name(run.method): run for run in comparison.spirals}
    folders = {name: comparison.folder / run_folder.folder_name(run) for name, run in runs.items()}
    return {name: run for name, run in runs.items() if (folders[name] / run_folder.RESULT).exists()}


def _short_name(method: str) -> str:
    """Return the name of a method on the spirals without the data and α."""
    return method.removeprefix("spirals, ").partition(" α")[0]


def show_stop(comparison: Comparison, results: Sequence[Result], console: Console) -> None:
    """Print how many runs were finished before Ctrl-C."""
    done, wanted = len(finished_spirals(comparison)), len(comparison.spirals)
    spirals = f", and {done} of {wanted} on the spirals" if done < wanted else ""
    console.print(
        f"Stopped: {len(results)} of {len(comparison.runs)} runs were finished{spirals}. The same "
        f"command resumes the others."
    )
    if results:
        seeds = len(complete_seeds(results, comparison.methods))
        console.print(
            f"Their results are in {comparison.out / 'results.json'}; "
            f"the table covers the {seeds} seed{'' if seeds == 1 else 's'} "
            "that all methods have finished."
        )
