"""The table of all tasks, with tests that are corrected for their number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from manifold_mixup.lab.candidates import trained
from manifold_mixup.lab.candidates.registered import LEVEL, MANIFOLD, NONE, Candidate
from manifold_mixup.lab.candidates.trained import Row
from manifold_mixup.lab.evaluate.statistics import (
    Difference,
    Spread,
    holm,
    paired_difference,
    paired_p,
    smallest_seen,
    spread,
)

_DIGITS = {"error": 2, "nll": 4, "rmse": 4, "r2": 4}
_TITLES = {"error": "error % ↓", "nll": "NLL ↓", "rmse": "RMSE ↓", "r2": "R² ↑"}
_SECOND_METRIC = {"error": "nll", "nll": "error", "rmse": "r2"}
"""The metric that is shown beside the primary one."""
INTERVALS = (
    "Differences at the last epoch, paired by seed, with 95 % intervals; bold: zero is outside."
)
POWER = (
    f"{INTERVALS} p: two-sided paired t test. Could see: the smallest true difference that four of "
    "five such comparisons would show at an uncorrected 5 %, at the deviations observed here."
)


@dataclass(frozen=True)
class Verdict:
    """What the fresh seeds say about a task.

    Attributes:
        candidate: the task.
        seeds: the seeds that all ways have finished.
        spreads: by epoch, last or best, and way: the primary metric.
        beside: by way: another metric, at the last epoch.
        gap: manifold mixup less its control, at the last epoch; None with fewer than two seeds.
        p: the p-value of that difference; 1 for a task without two seeds.
        adjusted: the same, corrected for the number of tasks.
        to_none: the difference of each way to no mixup, at the last epoch.
        where: the machines, versions and commits of the runs.
    """

    candidate: Candidate
    seeds: tuple[int, ...]
    spreads: dict[str, dict[str, Spread]]
    beside: dict[str, Spread]
    gap: Difference | None
    p: float
    adjusted: float
    to_none: dict[str, Difference]
    where: tuple[str, ...]

    @property
    def survives(self) -> bool:
        """Whether manifold mixup beats its control after the correction."""
        return self.gap is not None and self.gap.mean < 0 and self.adjusted < LEVEL

    @property
    def helps(self) -> bool:
        """Whether manifold mixup beats no mixup too, by its own interval."""
        return MANIFOLD in self.to_none and self.to_none[MANIFOLD].high < 0


def verdicts(candidates: Sequence[Candidate], out: Path) -> list[Verdict]:
    """Return the verdict on every task, also on those that were not run.

    Args:
        candidates: all registered tasks.
        out: the folder of the results.
    """
    rows = [trained.read(out / f"{candidate.name}.json") for candidate in candidates]
    tests = [
        _p(candidate, candidate_rows)
        for candidate, candidate_rows in zip(candidates, rows, strict=True)
    ]
    adjusted = holm(tests)
    return [
        _verdict(candidate, candidate_rows, p, q)
        for candidate, candidate_rows, p, q in zip(candidates, rows, tests, adjusted, strict=True)
    ]


def _p(candidate: Candidate, rows: list[Row]) -> float:
    values = _values(candidate, rows, "last")
    p = paired_p(values[MANIFOLD], values[candidate.control]) if len(values[MANIFOLD]) > 1 else 1.0
    return 1.0 if math.isnan(p) else p


def _verdict(candidate: Candidate, rows: list[Row], p: float, adjusted: float) -> Verdict:
    seeds = _seeds(candidate, rows)
    last = _values(candidate, rows, "last")
    whens = ("last", "best") if candidate.plain.every else ("last",)
    enough = len(seeds) > 1
    return Verdict(
        candidate,
        seeds,
        {
            when: {way: spread(v) for way, v in _values(candidate, rows, when).items()}
            for when in (whens if seeds else ())
        },
        _second_metric(candidate, rows) if seeds else {},
        paired_difference(last[MANIFOLD], last[candidate.control]) if enough else None,
        p,
        adjusted,
        {way: paired_difference(v, last[NONE]) for way, v in last.items() if way != NONE}
        if enough
        else {},
        tuple(dict.fromkeys(_origin(row["on"]) for row in rows if "on" in row)),
    )


def _origin(on: Row) -> str:
    """Return the machine, the versions and the commit of a run."""
    machine, versions = on["machine"], on["versions"]
    return (
        f"{machine['cpu']} ({machine['instructions']}), one thread, PyTorch {versions['torch']}, "
        f"commit {(on['git'] or 'unknown')[:10]}"
    )


def _second_metric(candidate: Candidate, rows: list[Row]) -> dict[str, Spread]:
    by_way = _values(candidate, rows, "last", _SECOND_METRIC[candidate.metric])
    return {way: spread(values) for way, values in by_way.items()}


def _seeds(candidate: Candidate, rows: list[Row]) -> tuple[int, ...]:
    """Return the seeds that all ways have finished."""
    done = {(row["way"], row["seed"]) for row in rows if "last" in row}
    seeds = sorted({seed for _, seed in done})
    return tuple(s for s in seeds if all((way, s) in done for way in candidate.trials))


def _values(
    candidate: Candidate, rows: list[Row], when: str, metric: str | None = None
) -> dict[str, list[float]]:
    """Return a metric, or the primary one, of each way over the seeds."""
    name = metric or candidate.metric
    row_of = {(row["way"], row["seed"]): row for row in rows if when in row}
    seeds = _seeds(candidate, rows)
    return {way: [row_of[way, seed][when][name] for seed in seeds] for way in candidate.trials}


def markdown(all_verdicts: Sequence[Verdict]) -> str:
    """Return the tables: the tests of all tasks, then the ways of each."""
    titles = (
        "task", "metric", "n", "manifold − control", "p", "Holm's p", "survives", "could see",
        "manifold − no mixup",
    )  # fmt: skip
    lines = [f"| {' | '.join(titles)} |", "|---|---|---:|---:|---:|---:|---|---:|---:|"]
    lines += [*map(_test_line, all_verdicts), "", POWER]
    for verdict in all_verdicts:
        lines += _task(verdict)
    return "\n".join(lines) + "\n"


def without_tests(all_verdicts: Sequence[Verdict]) -> str:
    """Return the ways of tasks that were not registered, which no test is corrected for."""
    lines = [line for verdict in all_verdicts for line in _task(verdict)]
    return "\n".join([*lines[1:], "", INTERVALS]) + "\n"


def _task(verdict: Verdict) -> list[str]:
    """Return the lines of a task; none if it was not run."""
    if not verdict.spreads:
        return []
    lines = ["", f"**{verdict.candidate.name}**: {verdict.candidate.about}", "", *_ways(verdict)]
    return lines + (["", f"{'; '.join(verdict.where)}."] if verdict.where else [])


def _test_line(verdict: Verdict) -> str:
    candidate = verdict.candidate
    if verdict.gap is None:
        cells = ["not run", "1", "1", "no", "", ""]
    else:
        survives = "**yes**" if verdict.survives else "no"
        difference, to_none = (
            _cell(d, candidate) for d in (verdict.gap, verdict.to_none[MANIFOLD])
        )
        smallest = f"{smallest_seen(verdict.gap):.{_DIGITS[candidate.metric]}f}"
        cells = [
            difference,
            _p_cell(verdict.p),
            _p_cell(verdict.adjusted),
            survives,
            smallest,
            to_none,
        ]
    title = _TITLES[candidate.metric].removesuffix(" ↓")
    return f"| {candidate.name} | {title} | {len(verdict.seeds)} | {' | '.join(cells)} |"


def _ways(verdict: Verdict) -> list[str]:
    metric, best = verdict.candidate.metric, "best" in verdict.spreads
    other = _SECOND_METRIC[metric]
    head = [
        f"last epoch, n = {len(verdict.seeds)}",
        _TITLES[metric],
        "difference to no mixup",
        _TITLES[other],
    ]
    head += [f"{_TITLES[metric]}, best epoch"] if best else []
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for way, last in verdict.spreads["last"].items():
        difference = verdict.to_none.get(way)
        cells = [
            way,
            _spread(last, metric),
            "" if difference is None else _cell(difference, verdict.candidate),
        ]
        cells.append(_spread(verdict.beside[way], other))
        if best:
            cells.append(_spread(verdict.spreads["best"][way], metric))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(value: Spread, metric: str) -> str:
    digits = _DIGITS[metric]
    return f"{value.mean:.{digits}f} ± {value.std:.{digits}f}"


def _cell(difference: Difference, candidate: Candidate) -> str:
    digits = _DIGITS[candidate.metric]
    mean, low, high = (
        f"{v:+.{digits}f}".replace("-", "−")
        for v in (difference.mean, difference.low, difference.high)
    )
    alike = math.isnan(difference.low) and math.isfinite(difference.mean)
    words = f"{mean} [all seeds alike]" if alike else f"{mean} [{low}, {high}]"
    return f"**{words}**" if difference.excludes_zero else words


def _p_cell(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
