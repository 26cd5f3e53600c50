"""The command line of the examples, and their table of methods over seeds.

An example is two functions. ``load(seed, ...)`` returns the data to train and to score on, and
``train(*data, ...)`` returns the scores of a network. Their keyword arguments are the options of
the command line. For a seed, all methods get the same data, initial weights and order of examples.
"""

import argparse
import inspect
import sys
import time
from statistics import fmean, stdev

import torch
from scipy.special import stdtrit


def compare(about, load, train, tables, *, quick):
    """Train every method with every seed, and print a table of the scores for each title.

    Args:
        about: the docstring of the example, for ``--help``.
        load: called as ``load(seed, **options)``.
        train: called as ``train(*load(...), **settings)``; returns numbers by name.
        tables: ``{title: {method: settings}}``, the baseline first. Options of the command line
            override these settings for all methods.
        quick: the settings of ``--quick``, a short run to test that everything works.
    """
    options = _parser(about, [load, train], quick).parse_args()
    settings = {name: value for name, value in vars(options).items() if value is not None}
    if options.quick:
        settings = quick | {"seeds": 2} | settings
    _warm_up()
    for title, methods in tables.items():
        scores = {method: [] for method in methods}
        for seed in range(options.first_seed, options.first_seed + settings.get("seeds", 5)):
            data = load(seed, **_taken_by(load, settings))
            for method, own in methods.items():
                scores[method].append(_timed(seed, train, data, own | _taken_by(train, settings)))
                seen = ", ".join(
                    f"{name} {value:.3f}" for name, value in scores[method][-1].items()
                )
                print(f"{title}, seed {seed}, {method}: {seen}", file=sys.stderr)
        print(*_table(title, scores), sep="\n", end="\n\n", flush=True)


def _warm_up():
    """Take an optimizer step; at the first one, torch imports its compiler, which takes seconds."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()


def _timed(seed, train, data, settings):
    torch.manual_seed(seed)
    start = time.process_time()
    return train(*data, **settings) | {"CPU seconds ↓": time.process_time() - start}


def _parser(about, functions, quick):
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=form)
    parser.add_argument("--seeds", type=int, help="number of seeds; default 5")
    parser.add_argument("--first-seed", type=int, default=0, help="the first seed; default 0")
    parser.add_argument("--quick", action="store_true", help=f"run two seeds with {quick}")
    for name, option in [pair for function in functions for pair in _keywords(function)]:
        several = {"nargs": "*"} if option.annotation is tuple else {"type": option.annotation}
        parser.add_argument(f"--{name}", **several)
    return parser


def _keywords(function):
    parameters = inspect.signature(function).parameters.items()
    return [(name, each) for name, each in parameters if each.kind is each.KEYWORD_ONLY]


def _taken_by(function, settings):
    return {name: settings[name] for name, _ in _keywords(function) if name in settings}


def _table(title, scores):
    """Yield the lines of a Markdown table: mean ± std, and paired differences to the baseline."""
    base, *others = scores
    head = [f"{title}, {len(scores[base])} seeds", base]
    yield _row(head + [text for method in others for text in (method, "difference [95 %]")])
    yield _row(["---", "---:", *["---:"] * 2 * len(others)])
    for name in scores[base][0]:
        digits = 2 if "%" in name or "seconds" in name else 3
        values = {method: [score[name] for score in scores[method]] for method in scores}
        cells = [_spread(values[base], digits)]
        for method in others:
            pairs = zip(values[method], values[base], strict=True)
            cells.append(_spread(values[method], digits))
            cells.append(_difference([one - other for one, other in pairs], digits))
        yield _row([name, *cells])


def _row(cells):
    return f"| {' | '.join(cells)} |"


def _spread(values, digits):
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def _difference(values, digits):
    """Return a mean with Student's 95 % interval, in bold if it excludes zero."""
    mean, n = fmean(values), len(values)
    half = stdtrit(n - 1, 0.975) * stdev(values) / n**0.5 if n > 1 else float("inf")
    text = f"{mean:+.{digits}f} [{mean - half:+.{digits}f}, {mean + half:+.{digits}f}]"
    return f"**{text}**" if abs(mean) > half else text
