"""The runs of a table, trained and evaluated."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rich.markdown import Markdown

from manifold_mixup.lab.commands.reproduce.output import draw, json_head, write_table
from manifold_mixup.lab.commands.reproduce.reproduction import Reproduction
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.paper.numbers import EvaluatedRun
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs.evaluation import When
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.terminal.console import Console


def run(reproduction: Reproduction) -> bool:
    """Train and evaluate all runs, show and write the table; return whether all runs finished.

    Raises:
        FloatingPointError: a run diverged.
        OSError: a file could not be written, or a worker process died.
    """
    console, start, complete = Console(), time.perf_counter(), True
    head, runs = json_head(reproduction), dict[Recipe, dict[int, EvaluatedRun]]()
    console.print(reproduction.title, style="bold", markup=False, highlight=False)
    try:
        with Live(reproduction.runs, console) as live:
            for result, evaluation in _finished_runs(reproduction, live):
                live.finished(result)
                by_seed = runs.setdefault(replace(result.run, seed=0), {})
                by_seed[result.run.seed] = EvaluatedRun(result, evaluation)
                write_table(reproduction, head, runs, time.perf_counter() - start)
    except KeyboardInterrupt:
        complete = False
    if not complete:
        done = sum(map(len, runs.values()))
        console.print(
            f"Stopped: {done} of {len(reproduction.runs)} runs were finished. The same command "
            f"resumes the others."
        )
    if runs:
        path = write_table(reproduction, head, runs, time.perf_counter() - start)
        console.print(Markdown(path.read_text().replace("<br>", " ")))
        written = [path, path.with_suffix(".json"), *draw(reproduction, runs)]
        console.print(f"Written: {', '.join(map(str, written))}", markup=False, soft_wrap=True)
    return complete


def _finished_runs(
    reproduction: Reproduction, live: Live
) -> Iterator[tuple[Result, Mapping[When, Mapping[str, Any]]]]:
    """Train the runs; yield the result and the evaluation of each as it finishes."""
    folder, evaluate = reproduction.out / "runs", reproduction.evaluate
    for data, group in reproduction.groups:
        for result in processes.train_all(
            group,
            data,
            workers=reproduction.workers,
            on_epoch=live.epoch,
            on_step=live.step,
            on_note=live.note,
            on_start=live.start,
            folder=folder,
            after=evaluate,
            on=reproduction.on,
            gpus=reproduction.gpus,
        ):
            # The process that trained the run also evaluated it; this reads the result.
            own = folder / run_folder.folder_name(result.run)
            yield result, {} if evaluate is None else evaluate(own, data)
