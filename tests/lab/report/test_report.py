"""The summary, the table and the picture."""

import math
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from manifold_mixup.lab.evaluate import Scores
from manifold_mixup.lab.evaluate.measures import CONFIDENCE, ERROR, looked_at
from manifold_mixup.lab.evaluate.metrics import Reliability
from manifold_mixup.lab.evaluate.plane import Plane
from manifold_mixup.lab.evaluate.statistics import paired_difference, smallest_seen
from manifold_mixup.lab.launch.processes import train_all
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.plots.comparison import _bars, _flatness, _limits
from manifold_mixup.lab.report.plots.forest import forest
from manifold_mixup.lab.report.power import power_text, smallest_differences
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.report.summary import complete_seeds, only_means, summarise
from manifold_mixup.lab.report.table import markdown_table, terminal_table
from manifold_mixup.lab.report.unmoved import unmoved
from manifold_mixup.lab.runs.result import Epoch, Result

METHODS = ["no mixup", "manifold mixup"]
THOROUGH = pytest.mark.thorough


def result(method: str, seed: int, error: float, *, best: float | None = None) -> Result:
    bins = Reliability(count=(0, 10), confidence=(0.0, 0.8), accuracy=(0.0, 0.7))
    last = Scores(error, error / 20, 10.0, 100 - 2 * error, bins)
    curve = (Epoch(1, 2.0, 50.0, 2.5), Epoch(2, 1.0, error, error / 20))
    return Result(
        run=Recipe(method=method, seed=seed),
        seconds=4.0 + seed,
        curve=curve,
        last=last,
        best=replace(last, error=error if best is None else best),
        best_epoch=2,
        weights="",
    )


@pytest.fixture
def results() -> list[Result]:
    errors = {"no mixup": [30.0, 32.0, 31.0], "manifold mixup": [28.0, 30.5, 29.0]}
    return [result(m, seed, error) for m, many in errors.items() for seed, error in enumerate(many)]


def test_methods_that_an_attack_cannot_move_are_named(results):
    scored = {name: [one.last for one in results if one.run.method == name] for name in METHODS}
    assert unmoved(scored) == ""  # results of earlier versions do not say
    shares = zip(scored["no mixup"], (60, 0, 3), strict=True)
    some = [replace(one, fgsm_unmoved=share) for one, share in shares]
    few = [replace(one, fgsm_unmoved=0.9) for one in scored["manifold mixup"]]
    said = unmoved({"no mixup": some, "manifold mixup": few, "not run": []})
    assert "of those that are predicted right, 21 % with no mixup. They count" in said
    assert "manifold" not in said
    some[1] = replace(some[1], fgsm_unmoved=math.nan)  # a result of an earlier version
    assert "31.5 % with no mixup" in unmoved({"no mixup": some})


def test_a_summary_pairs_by_seed_whatever_the_order(results):
    rows = summarise(results[::-1], METHODS)
    assert [(row.method, row.when) for row in rows] == [
        (method, when) for when in ("last", "best") for method in METHODS
    ]
    assert rows[0].difference is None
    assert rows[1].spread["error"].mean == pytest.approx(87.5 / 3)
    assert rows[1].difference["error"] == paired_difference([28, 30.5, 29], [30, 32, 31])
    assert rows[1].difference["seconds"].mean == 0


def test_a_seed_that_some_method_has_not_finished_is_left_out(results):
    assert complete_seeds(results[:-1], METHODS) == [0, 1]
    assert summarise(results[:-1], METHODS)[0].spread["error"].mean == 31
    assert summarise(results[:2], METHODS) == []


def test_the_widest_likely_table_fits_eighty_columns():
    wide = []
    for k, method in enumerate(["no mixup", "input mixup", "manifold mixup"]):
        for seed in range(5):
            one = result(method, seed, 40.0 - 12 * k + seed * (k + 1) ** 2)
            bins = Reliability(count=(9,), confidence=(0.95 - seed / 40 - k / 4,), accuracy=(0.5,))
            score = replace(one.last, ece=bins.ece, nll=one.last.nll * 0.9, reliability=bins)
            wide.append(replace(one, seconds=40.0 + 9 * k * seed, last=score, best=score))
    console = Console(width=80)
    with console.capture() as capture:
        methods = list(dict.fromkeys(one.run.method for one in wide))
        console.print(terminal_table(summarise(wide, methods), title="a title"))
    text = capture.get()
    assert "…" not in text


def test_intervals_of_two_seeds_are_wrapped_and_never_cut():
    """With one degree of freedom, Student's t is 12.7, so the intervals are wide."""
    methods = ["no mixup", "input mixup", "manifold mixup"]
    wide = [
        replace(result(name, seed, 40 - 12 * k), seconds=40.0 + 900 * k * seed)
        for k, name in enumerate(methods)
        for seed in range(2)
    ]
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(summarise(wide, methods), title="a title"))
    text = capture.get()
    assert "…" not in text
    gap = summarise(wide, methods)[2].difference["seconds"]
    for number in (gap.mean, gap.low, gap.high):
        assert f"{number:+.1f}".replace("-", "−") in text


def test_the_table_says_it_all_within_eighty_columns(results):
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(summarise(results, METHODS), title="a title"))
    text = capture.get()
    assert "…" not in text
    for fragment in (
        "a title",
        "3 seeds",
        "last epoch",
        "best epoch",
        "31.00 ± 1.00",
        "−1.83 [−2.55, −1.12]",
        "FGSM acc. % ↑",
    ):
        assert fragment in text


def test_markdown_marks_what_is_clear(results):
    text = markdown_table(summarise(results, METHODS), title="a title", caption="ε = 0.1")
    assert "| 3 seeds | no mixup | manifold mixup |" in text
    assert "| error % ↓ | 31.00 ± 1.00 | 29.17 ± 1.26<br>**−1.83 [−2.55, −1.12]** |" in text
    assert "<br>+0.0 [all seeds alike]" in text
    assert "95 % interval" in text
    assert "ε = 0.1" in text


ALL = ["no mixup", "manifold mixup", "Remix"]


def looked(results: list[Result]) -> list[Result]:
    """Return results with what a comparison measures at two layers and off the data."""
    more = [one.key for one in looked_at(["hidden1", "hidden2"])]
    return [
        replace(one, more={key: k + one.last.error for k, key in enumerate(more)})
        for one in results
    ]


def test_the_layers_have_sections_after_the_last_epoch(results):
    rows = summarise(looked(results), METHODS)
    text = markdown_table(rows, title="", caption="")
    sections = [line for line in text.splitlines() if line.startswith("| *")]
    assert sections == [
        f"| *{name}* | | |"
        for name in ("last epoch", "flatness at hidden1", "flatness at hidden2", "best epoch")
    ]
    gap = "**−1.833 [−2.550, −1.116]**"
    assert f"| conf. off data ↓ | 31.000 ± 1.000 | 29.167 ± 1.258<br>{gap} |" in text
    rows_of = text.split("flatness at hidden2")[1].splitlines()[1:4]
    assert [line.split(" | ")[0] for line in rows_of] == [
        "| outside % ↓",
        "| within % ↓",
        "| paper's s₁ % ↑",
    ]
    assert [line.split(" | ")[1] for line in rows_of] == [f"{31 + k:.1f} ± 1.0" for k in (4, 5, 6)]
    assert "more" not in text


def test_what_is_not_known_is_a_dash(results):
    none = [replace(one, more={"confidence": math.nan}) for one in results]
    text = markdown_table(summarise(none, METHODS), title="", caption="")
    assert "| conf. off data ↓ | – | – |" in text


def test_what_only_some_runs_have_is_left_out(results):
    rows = summarise([*looked(results[:3]), *results[3:]], METHODS)
    assert "outside at hidden1" in rows[0].spread
    assert "outside at hidden1" not in rows[1].difference
    assert len(rows[0].spread) > len(rows[1].spread)


def test_the_smallest_differences_are_those_of_the_seeds(three):
    rows = summarise(looked(three), ALL)
    found = smallest_differences(rows)
    assert list(found) == [
        "manifold mixup − no mixup",
        "Remix − no mixup",
        "Remix − manifold mixup",
    ]
    for name, row, of in zip(found, (1, 2, 2), ("difference",) * 2 + ("to_manifold",), strict=True):
        gaps = getattr(rows[row], of)
        sizes = {key: smallest_seen(gap) for key, gap in gaps.items()}
        assert found[name] == {key: size for key, size in sizes.items() if not math.isnan(size)}
        assert "error" in found[name]
    text = power_text(rows)
    error = found["Remix − manifold mixup"]["error"]
    assert f"Remix − manifold mixup: error % {error:.2f}, NLL " in text
    assert "conf. off data" in text
    assert "seconds" not in text
    assert "outside" not in text  # those of the layers are in results.json


def test_one_seed_and_a_smoke_test_state_no_power(results):
    for rows in (summarise(results[::3], METHODS), only_means(summarise(results, METHODS))):
        assert power_text(rows) == ""
        assert smallest_differences(rows) == {}


@pytest.fixture
def three(results) -> list[Result]:
    return results + [result("Remix", seed, 27.0 + 2 * seed) for seed in range(3)]


def test_another_method_is_compared_with_manifold_mixup_too(three):
    plain, manifold, remix = summarise(three, ALL)[:3]
    assert plain.to_manifold is None
    assert manifold.to_manifold is None
    assert remix.to_manifold["error"] == paired_difference([27, 29, 31], [28, 30.5, 29])
    assert remix.difference["error"] == paired_difference([27, 29, 31], [30, 32, 31])


@pytest.mark.parametrize("methods", [["no mixup", "Remix"], ["manifold mixup", "Remix"], METHODS])
def test_there_is_no_second_comparison_without_a_third_method(three, methods):
    rows = summarise(three, methods)
    assert all(row.to_manifold is None for row in rows)
    assert "epoch, difference to" not in markdown_table(rows, title="", caption="")


def test_the_table_has_the_differences_to_manifold_mixup(three):
    rows = summarise(three, ALL)
    text = markdown_table(rows, title="", caption="")
    *_, last = text.partition("| *last epoch, difference to manifold mixup* | | | |\n")
    gap = paired_difference([27, 29, 31], [28, 30.5, 29])
    shown = f"{gap.mean:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}]".replace("-", "−")
    assert last.startswith(f"| error % ↓ |  |  | {shown} |\n")
    console = Console(width=80)
    with console.capture() as capture:
        console.print(terminal_table(rows, title=""))
    label, *_ = capture.get().partition(shown)
    assert label.split()[-3:] == ["error", "%", "↓"]


def test_many_methods_stand_below_each_other_with_the_same_cells(results):
    others = [f"way {number}" for number in range(4)]
    more = [
        result(name, seed, 27.0 + 2 * seed + number)
        for number, name in enumerate(others)
        for seed in range(3)
    ]
    few, many = (summarise(results + more, METHODS + names) for names in (others[:2], others))
    across, down = (markdown_table(rows, title="a title", caption="") for rows in (few, many))
    heads = [line for line in down.splitlines() if line.startswith("| 3 seeds")]
    last = "error % ↓ | NLL ↓ | ECE % ↓ | FGSM acc. % ↑"
    assert heads == [
        f"| 3 seeds, *last epoch* | {last} | seconds ↓ |",
        f"| 3 seeds, *last epoch, difference to manifold mixup* | {last} | seconds ↓ |",
        f"| 3 seeds, *best epoch* | {last} |",
        f"| 3 seeds, *best epoch, difference to manifold mixup* | {last} |",
    ]
    lines = down.splitlines()
    assert [sum(line.startswith(f"| {name} |") for line in lines) for name in METHODS] == [2, 2]
    assert [sum(line.startswith(f"| {name} |") for line in lines) for name in others] == [4] * 4
    row = next(line for line in across.splitlines() if line.startswith("| error % ↓ | 31.00"))
    for name, cell in zip(METHODS + others[:2], row.split(" | ")[1:], strict=True):
        assert f"| {name} | {cell.removesuffix(' |')} |" in down


def test_many_methods_are_drawn_below_each_other_with_their_intervals(three):
    rows = [row for row in summarise(three, ALL) if row.when == "last"]
    figure = Figure()
    forest(figure, rows)
    error = figure.axes[0]
    assert [label.get_text() for label in error.get_yticklabels()] == ALL
    _, plain, *others = error.lines  # the first is the line of no difference
    assert (plain.get_xdata().tolist(), plain.get_ydata().tolist()) == ([0], [0])
    for place, row in enumerate(rows[1:]):
        interval, dot = others[2 * place : 2 * place + 2]
        gap = row.difference["error"]
        assert list(interval.get_xdata()) == [gap.low, gap.high]
        assert dot.get_xdata()[0] == pytest.approx(gap.mean)
        assert list(interval.get_ydata()) == [place + 1, place + 1]
        assert interval.get_color() == dot.get_color()
    better, unclear = others[0].get_color(), others[2].get_color()
    assert ERROR.verdict(rows[1].difference["error"]) == "better"
    assert ERROR.verdict(rows[2].difference["error"]) == "unclear"
    assert better != unclear == plain.get_color()
    assert [text.get_text() for text in error.texts] == ["31.00", "29.17", "29.00"]


@pytest.mark.parametrize(
    ("smoke", "seeds"),
    [
        (False, 2),
        (True, 1),
        pytest.param(False, 1, marks=THOROUGH),
        pytest.param(True, 2, marks=THOROUGH),
    ],
)
def test_a_picture_of_many_methods_can_be_made_of_any_number_of_seeds(results, seeds, smoke):
    names = [f"way {number}" for number in range(5)]
    more = [result(name, seed, 27.0 + seed) for name in names for seed in range(seeds)]
    rows = summarise([*results, *more], METHODS + names)
    rows = only_means(rows) if smoke else rows
    picture = plots.comparison_picture(results + more, rows, title="a title", smoke=smoke)
    assert picture.png[:4] == b"\x89PNG"
    again = plots.comparison_picture(results + more, rows, title="a title", smoke=smoke)
    assert picture == again


def test_one_seed_is_shown_without_intervals(results):
    rows = summarise([results[0], results[3]], METHODS)
    text = markdown_table(rows, title="", caption="")
    assert "| error % ↓ | 30.00 | 28.00 |" in text
    assert "nan" not in text


def test_a_worse_result_is_called_worse(results):
    swapped = summarise(results, METHODS[::-1])
    console = Console(width=80, force_terminal=True, color_system="standard")
    with console.capture() as capture:
        console.print(terminal_table(swapped, title=""))
    assert "\x1b[31m+1.83 [+1.12, +2.55]" in capture.get()


@pytest.mark.parametrize("seeds", [pytest.param(1, marks=THOROUGH), 3])
def test_the_picture_is_a_png_of_a_size_for_projection(results, seeds):
    shown = [one for one in results if one.run.seed < seeds]
    picture = plots.comparison_picture(shown, summarise(shown, METHODS), title="a title")
    assert picture.png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture.png[16:24])
    assert (width, height) == (1466, 825)
    assert all(10_000 < len(content) < 300_000 for content in picture)
    assert b"<svg" in picture.svg
    assert b"mixup</text>" in picture.svg  # text, not outlines
    assert b"'DejaVu Sans', Verdana, sans-serif" in picture.svg
    assert picture == plots.comparison_picture(shown, summarise(shown, METHODS), title="a title")


@pytest.mark.parametrize("measure", [ERROR, CONFIDENCE])
def test_the_dots_on_a_bar_are_its_seeds(results, measure):
    shown = looked(results)
    rows = [row for row in summarise(shown, METHODS) if row.when == "last"]
    methods = {name: [one for one in shown if one.run.method == name] for name in METHODS}
    axes = Figure().subplots()
    _bars(axes, methods, rows, measure)
    dots = [line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata()) == 3]
    assert dots == [[one.last.error for one in of] for of in methods.values()]


@pytest.mark.parametrize(
    ("names", "layers", "panels"),
    [
        (["no mixup", "input mixup", "manifold mixup"], True, 3 + 2),
        pytest.param([], True, 2, marks=THOROUGH),
        pytest.param(["no mixup"], False, 1, marks=THOROUGH),
    ],
)
def test_the_paper_stands_below_the_results(results, names, layers, panels):
    points = torch.cartesian_prod(torch.linspace(-1, 1, 5), torch.linspace(-1, 1, 5))
    plane = Plane(points[0], points[-1], points, (points * 3).softmax(1))
    view = plots.InputView(plane, points.double().numpy(), (points[:, 0] > 0).long().numpy())
    shown = looked(results) if layers else results
    picture = plots.comparison_picture(
        shown, summarise(shown, METHODS), title="", spirals=dict.fromkeys(names, view)
    )
    assert struct.unpack(">II", picture.png[16:24]) == (1466, 1199)
    bars = 4 + layers  # with confidence off the data
    assert picture.svg.count(b'id="axes_') == bars + 3 + panels


def test_the_bars_of_a_layer_stand_beside_each_other(results):
    rows = [row for row in summarise(looked(results), METHODS) if row.when == "last"]
    axes = Figure().subplots()
    _flatness(axes, rows, ["hidden1", "hidden2"], "within", "")
    means = [
        [row.spread[f"within at {layer}"].mean for layer in ["hidden1", "hidden2"]] for row in rows
    ]
    assert [[bar.get_height() for bar in bars.patches] for bars in axes.containers[1::2]] == means
    for layer in range(2):
        bars = sorted(bars.patches[layer].get_x() for bars in axes.containers[1::2])
        ends = [left + axes.containers[1].patches[0].get_width() for left in bars]
        assert layer - 0.5 < bars[0] < ends[0] <= bars[1] < ends[1] < layer + 0.5


def test_drawing_leaves_the_style_of_others_alone(results):
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.comparison_picture(results, summarise(results, METHODS), title="")
    assert dict(mpl.rcParams) == before


def test_away_from_a_terminal_each_epoch_and_each_finished_run_is_a_line(task, runs):
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture, Live(runs, console) as live:
        for one in train_all(runs, task, workers=1, on_epoch=live.epoch):
            live.finished(one)
    lines = capture.get().strip().splitlines()
    assert len(lines) == len(runs) * (runs[0].epochs + 1)
    assert "no mixup, seed 1: epoch 2/3, train loss " in "\n".join(lines)
    lines = [line for line in lines if line.startswith("[")]
    assert len(lines) == len(runs)
    assert lines[2].startswith("[3/6] manifold mixup, seed 0: error ")


def test_on_a_terminal_bars_show_what_is_left(task, runs):
    console = Console(width=120, force_terminal=True)
    with console.capture() as capture, Live(runs, console) as live:
        for one in train_all(runs, task, workers=1, on_epoch=live.epoch):
            live.note(one.run, "looked at")
            live.finished(one)
    text = capture.get()
    assert "all runs" in text
    assert "left" in text


def test_the_limits_of_a_curve_leave_out_spikes_but_no_part_of_a_short_one():
    short = np.array([90.0, 40.0, 30.0, 25.0, 22.0])
    assert max(_limits(short - 1, short + 1)) == 91
    assert min(_limits(short - 1, short + 1)) == 21
    long = np.full(200, 5.0)
    long[[20, 60, 100]] = 80.0
    assert max(_limits(long, long)) == 5
    assert min(_limits(long - 6, long)) == 0  # errors and losses are not below it
    assert _limits(np.full(9, np.nan), np.full(9, np.nan)) == []
