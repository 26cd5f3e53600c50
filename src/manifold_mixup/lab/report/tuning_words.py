"""The words of a search: its head, a line for each trial, and the verdict."""

from collections.abc import Sequence

from manifold_mixup.lab.data.validation import Validation
from manifold_mixup.lab.evaluate.measures import Measure
from manifold_mixup.lab.search.final import Finalist
from manifold_mixup.lab.search.space import OWN_SETTINGS, in_short, in_words
from manifold_mixup.lab.search.study import Trial
from manifold_mixup.lab.search.trials import PendingTrial, Search, Way

LOOK = (
    "The look at the test set is used up: whatever you change after it would be chosen on the test "
    "set."
)

_NAMES = {
    "lr": "learning rate",
    "weight_decay": "weight decay",
    "alpha": "α",
    **OWN_SETTINGS,
}


def head(search: Search, validation: Validation, *, recipe: str) -> list[str]:
    """Return the lines that say what is searched and how, the title first."""
    ways, metric = search.ways, search.metric.title
    run = ways[0].run
    data = search.split(0).name.removesuffix(" (validation)")
    return [
        f"{data}, {run.model}, recipe {recipe}, {_count(run.epochs, 'epoch')}",
        f"{_count(len(ways), 'way')}, {_budget(search)}, {_count(search.seeds, 'seed')} per trial, "
        f"sampler {search.sampler}.",
        f"Validation: {validation.about}.",
        f"Chosen by: mean validation {metric} at the last epoch; no trial is stopped early.",
        "Searched:",
        *_searched(search),
    ]


def trial_header(search: Search) -> str:
    """Return the header of the lines of `trial_line`."""
    return f"{'trial':>7}  {'way':<{_room(search)}}  {search.metric.title:>7}  settings"


def trial_line(pending: PendingTrial, trial: Trial, search: Search) -> str:
    """Return the line of a finished trial."""
    place = f"{pending.number + 1}/{pending.way.trials}"
    start = f"{place:>7}  {pending.way.name:<{_room(search)}}"
    if trial.value is None:
        return f"{start}   failed  {in_short(trial.settings)}: {trial.reason}"
    value = f"{trial.value:.{search.metric.digits}f}"
    return f"{start}  {value:>7}  {in_short(trial.settings)}"


def settings_lines(finalists: Sequence[Finalist]) -> list[str]:
    """Return the settings of each finalist, or why it failed."""
    room = max(len(finalist.way.run.method) for finalist in finalists)
    return [
        f"{finalist.way.run.method:<{room}}  "
        + (
            in_words(finalist.settings)
            if finalist.results and finalist.settings
            else finalist.reason
        )
        for finalist in finalists
    ]


def verdict(chosen: Finalist, base: Finalist, metric: Measure) -> str:
    """Return a sentence on whether the best way beats no mixup."""
    name = chosen.way.run.method
    if not base.results:
        return f"Chosen: {name}. No mixup cannot be compared: {base.reason}."
    if chosen is base:
        return "Chosen: no mixup. No way of mixing has a lower mean."
    gap = chosen.difference(base, metric)
    if gap.n == 1:
        return f"Chosen: {name}. One seed cannot tell whether it beats no mixup (--final-seeds)."
    if metric.verdict(gap) == "better":
        return f"Chosen: {name}. It beats tuned no mixup: the interval is below zero."
    return (
        f"Chosen: {name}, by its mean. It does not clearly beat tuned no mixup: the interval "
        f"includes zero."
    )


def _budget(search: Search) -> str:
    counts = [way.trials for way in search.ways]
    if len(set(counts)) == 1:
        return f"{_count(counts[0], 'trial')} each"
    return f"{' + '.join(map(str, counts))} trials (a grid gives no equal budget)"


def _searched(search: Search) -> list[str]:
    """Return a line for each setting that is searched, and for each space of it."""
    ways: dict[tuple[str, str], list[str]] = {}
    for way in search.ways:
        for name in way.space.numbers:
            ways.setdefault((_NAMES[name], _values(search, way, name)), []).append(way.name)
        if len(way.space.layers) > 1:
            ways.setdefault(("layers", ", ".join(way.space.choices)), []).append(way.name)
    all_names = [way.name for way in search.ways]
    return [
        f"  {name:<14} {values}{'' if names == all_names else ' (' + ', '.join(names) + ')'}"
        for (name, values), names in ways.items()
    ]


def _values(search: Search, way: Way, name: str) -> str:
    if search.sampler == "grid":
        return ", ".join(f"{value:g}" for value in way.space.numbers[name])
    low, high = way.space.bounds(name)
    return f"{low:g}, not searched" if low == high else f"{low:g} to {high:g}"


def _room(search: Search) -> int:
    return max(len(way.name) for way in search.ways)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
