"""The runs of a comparison, trained and measured."""

import time
from dataclasses import replace
from functools import partial

from manifold_mixup.lab.commands.compare.comparison import Comparison
from manifold_mixup.lab.commands.compare.output import show_results, show_stop
from manifold_mixup.lab.commands.compare.results_file import json_head, rows_of, write_results
from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.evaluate.measures import looked_at
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.evaluation import Evaluation
from manifold_mixup.lab.runs.result import Epoch, Result
from manifold_mixup.lab.terminal.console import Console


def run(comparison: Comparison) -> bool:
    """Train all runs, show the table, write the results; return whether all runs finished.

    Raises:
        FloatingPointError: a run diverged.
        OSError: a file could not be written, or a worker process died.
    """
    console = Console()
    console.print(comparison.title, style="bold", markup=False, highlight=False)
    start, results, complete = time.perf_counter(), list[Result](), True
    head, measure = json_head(comparison), _measurement(comparison)
    runs = (*comparison.runs, *comparison.spirals)
    try:
        with Live(runs, console) as live:
            for result in processes.train_all(
                runs,
                comparison.sources,
                workers=comparison.workers,
                on_epoch=partial(_show_epoch, comparison, live),
                on_step=live.step,
                on_start=live.start,
                folder=comparison.folder,
                after=measure,
            ):
                live.finished(result)
                if result.run in comparison.spirals:
                    continue
                results.append(_with_measurements(comparison, measure, result))
                write_results(comparison, head, results, time.perf_counter() - start)
    except KeyboardInterrupt:
        complete = False
    rows = rows_of(comparison, results)
    if rows:
        show_results(comparison, rows, results, head, console)
    if not complete:
        show_stop(comparison, results, console)
    return complete


def _show_epoch(comparison: Comparison, live: Live, run: Recipe, epoch: Epoch) -> None:
    """Show an epoch; those of the spirals are many and short, so that only their bar moves."""
    if run in comparison.spirals:
        live.step(run, epoch.epoch)
    else:
        live.epoch(run, epoch)


def _measurement(comparison: Comparison) -> Evaluation | None:
    """Return what is measured beside the scores of a run, in the process that trained it."""
    if comparison.data.regression:
        return None
    parts = ("confidence", "flatness") if comparison.layers else ("confidence",)
    names = tuple(dict.fromkeys(run.data for run in comparison.runs))
    return Evaluation(names, parts, Settings(layers=comparison.layers))


def _with_measurements(
    comparison: Comparison, measure: Evaluation | None, result: Result
) -> Result:
    """Add to a result what was measured after it."""
    if measure is None:
        return result
    data = comparison.sources[result.run.data]
    evaluation = measure(comparison.folder / run_folder.folder_name(result.run), data)
    measures = looked_at(comparison.layers)
    return replace(
        result, more={number.key: number.read(result.last, evaluation) for number in measures}
    )
