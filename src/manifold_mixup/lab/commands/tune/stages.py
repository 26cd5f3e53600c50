"""The stages of a search: the trials, the best of each way, the look at the test set."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.commands.tune.output import print_lines, show_finalists, show_test_results
from manifold_mixup.lab.commands.tune.tuning import Tuning
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.launch.callbacks import Source
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.report.tuning_table import trials_markdown
from manifold_mixup.lab.report.tuning_words import head, trial_header, trial_line
from manifold_mixup.lab.runs import files
from manifold_mixup.lab.search.final import (
    Finalist,
    finalists,
    measure_on_test_set,
    stored_test_results,
)
from manifold_mixup.lab.search.study import StudyFile, open_study
from manifold_mixup.lab.search.trials import Outcome, trials
from manifold_mixup.lab.terminal.console import Console


def run(tuning: Tuning) -> bool:
    """Search, compare, look at the test set once; return whether all of it was finished.

    Raises:
        FloatingPointError: all trials of all ways diverged, or a run of the look at the test set.
        OSError: a file could not be written, or a worker process died.
    """
    console = Console()
    title, *lines = head(tuning.search, tuning.validation, recipe=tuning.options.recipe)
    console.print(title, style="bold", markup=False, highlight=False)
    print_lines([*lines, f"Study: {tuning.study}"], console)
    names = [way.name for way in tuning.search.ways]
    with open_study(tuning.study, asked=tuning.asked, ways=names) as study:
        try:
            _search(tuning, study, console)
            trained_finalists = finalists(
                tuning.search,
                study,
                seeds=tuning.options.final_seeds,
                folder=tuning.folder / "finalists",
                train=_training_function(tuning, console, held_out=True),
            )
            chosen = show_finalists(tuning, study, trained_finalists, console)
            if tuning.options.test:
                _test_once(tuning, study, trained_finalists[0], chosen, console)
        except KeyboardInterrupt:
            done = sum(len(study.raw(name)) for name in names)
            total = sum(way.trials for way in tuning.search.ways)
            console.print(
                f"Stopped: {done} of {total} trials are finished. The same command resumes."
            )
            return False
    written = ", ".join(str(tuning.folder / name) for name in ("table.md", "trials.md"))
    console.print(f"Written: {written}", markup=False, soft_wrap=True)
    return True


def _search(tuning: Tuning, study: StudyFile, console: Console) -> None:
    """Train the missing trials, and print a line for each."""
    search = tuning.search
    done = sum(len(study.raw(way.name)) for way in search.ways)
    total = sum(way.trials for way in search.ways)
    if done:
        console.print(f"{done} of {total} trials were already finished.")
    if done < total:
        console.print(trial_header(search), style="bold", markup=False, highlight=False)
    folder = tuning.folder / "trials"
    for pending in trials(
        search, study, folder=folder, train=_training_function(tuning, console, held_out=True)
    ):
        trial = study.trials(pending.way.name)[pending.number]
        console.print(
            trial_line(pending, trial, search), markup=False, highlight=False, soft_wrap=True
        )
    files.write(tuning.folder / "trials.md", trials_markdown(search.ways, study).encode())


def _training_function(tuning: Tuning, console: Console, *, held_out: bool) -> Any:
    """Return the function that trains runs for the search, and shows their progress."""

    def train(
        runs: Sequence[Recipe], source: Source, folder: Path, title: str
    ) -> Mapping[Recipe, Outcome]:
        outcomes: dict[Recipe, Outcome] = {}
        if not runs:  # all trials of all ways failed
            return outcomes
        with Live(runs, console, title=title, held_out=held_out, lines=False) as live:

            def failed(run: Recipe, error: FloatingPointError) -> None:
                outcomes[run] = str(error)
                live.failed(run)

            for result in processes.train_all(
                runs,
                source,
                workers=min(tuning.workers, len(runs)),
                on_epoch=live.epoch,
                on_step=live.step,
                on_failure=failed,
                folder=folder,
                on=tuning.options.on,
                gpus=tuning.options.gpus,
            ):
                live.finished(result)
                outcomes[result.run] = result
        return outcomes

    return train


def _test_once(
    tuning: Tuning, study: StudyFile, base: Finalist, chosen: Finalist, console: Console
) -> None:
    """Look at the test set, unless that was done before, and print what was found."""
    compared = [base, chosen] if base.results and chosen is not base else [chosen]
    results = stored_test_results(study)
    if results is not None:
        console.print("\nThe test set was looked at before; these are the stored results.")
    else:
        data = _all_examples(tuning)
        measure_on_test_set(
            study,
            compared,
            data,
            seeds=tuning.options.final_seeds,
            folder=tuning.folder / "test",
            train=_training_function(tuning, console, held_out=False),
        )
        results = stored_test_results(study)
    assert results is not None
    show_test_results(tuning, results, [finalist.way.run.method for finalist in compared], console)


def _all_examples(tuning: Tuning) -> datasets.Data:
    """Return the data as trained on for the look at the test set: nothing is held out."""
    options = tuning.options
    data = datasets.load(options.data, root=options.root.expanduser())
    # Ways that use no unlabelled examples ignore them.
    runs = (way.run for way in tuning.search.ways)
    return datasets.reduced(data, max(runs, key=lambda run: run.ict_weight))
