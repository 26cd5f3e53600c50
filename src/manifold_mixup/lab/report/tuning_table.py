"""The tables of a search: its trials, its finalists, and the look at the test set."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from manifold_mixup.lab.evaluate.measures import ERROR, FGSM, NLL, R2, RMSE, Measure
from manifold_mixup.lab.report.table import difference_text, spread_text
from manifold_mixup.lab.search.final import Finalist
from manifold_mixup.lab.search.space import in_words, layers_of, own_words
from manifold_mixup.lab.search.study import StudyFile, Trial
from manifold_mixup.lab.search.trials import Way

FINALISTS = (
    "Mean ± standard deviation over the fresh seeds, the paired difference to no mixup over the "
    "same seeds with its 95 % interval (Student's t), and the trials with their time of training."
)

_STYLE = {"better": "green", "worse": "red", "unclear": "none"}


def finalists_table(
    finalists: Sequence[Finalist], study: StudyFile, metric: Measure, *, title: str
) -> Table:
    """Return the finalists as a terminal table, a line for each way."""
    table = Table(
        title=title, title_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("way")
    for header in _header(metric)[1:]:
        table.add_column(header, justify="right")
    for finalist in finalists:
        name, value, difference, *rest = _cells(finalist, finalists[0], study, metric)
        style = _STYLE[_verdict(finalist, finalists[0], metric)]
        table.add_row(name, value, f"[{style}]{escape(difference)}[/]", *rest)
    return table


def finalists_markdown(
    finalists: Sequence[Finalist], study: StudyFile, metric: Measure, *, title: str
) -> str:
    """Return the finalists as Markdown, with their settings."""
    rows = [
        [
            *_cells(finalist, finalists[0], study, metric),
            in_words(finalist.settings) if finalist.settings else "",
        ]
        for finalist in finalists
    ]
    table = _markdown([*_header(metric), "settings"], rows)
    return f"**{title}**\n\n{table}\n{FINALISTS}\n"


def trials_markdown(ways: Sequence[Way], study: StudyFile) -> str:
    """Return all trials as Markdown, with the means over their seeds."""
    measures = (RMSE, R2) if ways[0].run.regression else (ERROR, NLL, FGSM)
    header = [
        "method",
        "lr",
        "weight decay",
        "α",
        "layers",
        *(measure.title for measure in measures),
    ]
    rows = [
        [*_settings(way, trial), *_means(trial, measures)]
        for way in ways
        for trial in study.trials(way.name)
    ]
    return _markdown(header, rows)


def duration(seconds: float) -> str:
    """Return a time in words.

    Examples:
        >>> duration(8.26), duration(75), duration(3700)
        ('8.3 s', '1:15', '1:01:40')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _header(metric: Measure) -> list[str]:
    return ["way", metric.title, "difference to no mixup", "trials", "time"]


def _cells(finalist: Finalist, base: Finalist, study: StudyFile, metric: Measure) -> list[str]:
    trials = study.trials(finalist.way.name)
    failed = sum(trial.value is None for trial in trials)
    count = f"{len(trials)}" if not failed else f"{len(trials)}, {failed} failed"
    time = duration(sum(trial.seconds for trial in trials))
    value = spread_text(finalist.spread(metric), metric.digits) if finalist.results else "failed"
    difference = ""
    if finalist is not base and finalist.results and base.results:
        difference = difference_text(finalist.difference(base, metric), metric.digits)
    return [finalist.way.run.method, value, difference, count, time]


def _verdict(finalist: Finalist, base: Finalist, metric: Measure) -> str:
    if finalist is base or not finalist.results or not base.results:
        return "unclear"
    return metric.verdict(finalist.difference(base, metric))


def _settings(way: Way, trial: Trial) -> list[str]:
    numbers = [f"{trial.settings[name]:g}" for name in ("lr", "weight_decay")]
    mixes = "alpha" in trial.settings
    alpha = f"{trial.settings['alpha']:g}{own_words(trial.settings)}" if mixes else ""
    layers = " ".join(layers_of(str(trial.settings["layers"]))) if alpha else ""
    return [way.run.method, *numbers, alpha, layers]


def _means(trial: Trial, measures: Sequence[Measure]) -> list[str]:
    if trial.value is None:
        return ["failed", *[""] * (len(measures) - 1)]
    return [
        f"{fmean(score[measure.key] for score in trial.scores):.{measure.digits}f}"
        for measure in measures
    ]


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *["--:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
