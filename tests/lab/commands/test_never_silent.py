"""The messages of commands about problems with a run, a file, or a narrow terminal."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from manifold_mixup.lab import cli
from manifold_mixup.lab.commands.compare import run as compare
from manifold_mixup.lab.commands.compare.comparison import Comparison
from manifold_mixup.lab.data import folder
from manifold_mixup.lab.recipes.check import check_recipe
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.progress import Live
from manifold_mixup.lab.report.summary import only_means, summarise
from manifold_mixup.lab.report.table import SMOKE, markdown_table, terminal_table
from manifold_mixup.lab.runs import evaluation as evaluations
from manifold_mixup.lab.runs import files, metrics_log, weights
from manifold_mixup.lab.runs import folder as kept
from manifold_mixup.lab.runs.result import Epoch, Start, read_epoch
from manifold_mixup.lab.training import loop as training
from manifold_mixup.lab.training.loop import Stopped, train


def refuse(name):
    raise ValueError(f"{name} is no JSON")


def strict(text):
    return json.loads(text, parse_constant=refuse)


def run_command(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


# NaN


def break_the_last_step(monkeypatch, run, task):
    """Make the weights NaN in the last step, whose loss is still finite."""
    steps = run.epochs * math.ceil(len(task.x) / run.batch)
    taken = []
    average = training.Job

    class Broken(average):
        def clear_gradients(self):
            taken.append(1)
            if len(taken) == steps + 1:  # it is also called once before the first step
                with torch.no_grad():
                    next(self.core.parameters()).fill_(math.nan)
            super().clear_gradients()

    monkeypatch.setattr(training, "Job", Broken)


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_last_step_that_diverges_is_no_finished_run(plain, task, tmp_path, monkeypatch, epochs):
    run = replace(plain, epochs=epochs)
    break_the_last_step(monkeypatch, run, task)
    reason = f"no mixup, seed 0: the loss on unseen examples is nan after epoch {epochs}, although"
    with pytest.raises(FloatingPointError, match=reason):
        train(run, task, folder=tmp_path)
    assert kept.finished(tmp_path) is None
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [strict(line)["epoch"] for line in lines] == list(range(1, epochs))


def test_weights_that_are_nan_are_told_and_not_evaluated(plain, task, tmp_path):
    """An earlier version could write such weights."""
    train(plain, task, folder=tmp_path)
    path = tmp_path / "last.safetensors"
    broken = weights.read(path)
    broken["hidden2.0.weight"][0, 0] = math.nan
    weights.write(path, broken)
    reason = r"1 of the \d+ tensors in .*last.safetensors contain NaN or infinity, first hidden2.0"
    with pytest.raises(ValueError, match=reason):
        evaluations.trained(tmp_path, task)
    assert evaluations.trained(tmp_path, task, "best")(task.x[:2]).isfinite().all()
    path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"last\.safetensors is damaged"):
        evaluations.trained(tmp_path, task)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan_and_reads_it_as_nan(tmp_path, value):
    epoch = Epoch(1, 0.5, 10.0, value)
    (line,) = metrics_log._line(epoch).splitlines()
    assert strict(line) == {"epoch": 1, "train_loss": 0.5, "error": 10.0, "nll": None}
    assert math.isnan(read_epoch(strict(line)).nll)
    files.write_json(tmp_path / "one.json", {"a": [value, (1.5, {"b": value})]})
    assert strict((tmp_path / "one.json").read_text()) == {"a": [None, [1.5, {"b": None}]]}


# Files


def test_a_run_of_another_version_or_damaged(plain, task, tmp_path, capsys):
    train(plain, task, folder=tmp_path)
    path = tmp_path / "recipe.json"
    content = json.loads(path.read_text())
    cases = {
        "this version has no setting 'warmup'": content | {"run": content["run"] | {"warmup": 3}},
        "was not written by this version": content | {"format": 0},
        "recipe.json was not written": [1],
        "recipe.json is damaged": {"format": 1},
    }
    for reason, changed in cases.items():
        path.write_text(json.dumps(changed))
        status, _, err = run_command(capsys, "evaluate", tmp_path)
        assert status == cli.BAD_INPUT
        assert reason in err


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n cut"])
def test_a_damaged_image_is_named(tmp_path, content):
    draw = np.random.default_rng(0)
    for part in ("train", "test"):
        for kind in ("a", "b"):
            (tmp_path / part / kind).mkdir(parents=True)
            image = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            image.save(tmp_path / part / kind / "1.png")
    assert folder.load(tmp_path).x.shape == (2, 3, 4, 4)
    (tmp_path / "test" / "b" / "2.png").write_bytes(content)
    with pytest.raises(OSError, match=r"test/b/2\.png cannot be read as an image .* Replace"):
        folder.load(tmp_path)


@pytest.mark.parametrize(
    ("out", "written"),
    [("page.html", "page.html"), ("new/", "new/report.html"), ("there", "there/report.html"),
     ("v1.2/", "v1.2/report.html"), ("bare", "bare/report.html")],
)  # fmt: skip
def test_a_report_into_a_folder(plain, task, tmp_path, monkeypatch, capsys, out, written):
    monkeypatch.chdir(tmp_path)
    # The pictures of the page take a second.
    monkeypatch.setattr("manifold_mixup.lab.report.page.page", lambda *_, **__: "<html>")
    (tmp_path / "there").mkdir()
    train(plain, task, folder=tmp_path / "run")
    status, shown, _ = run_command(capsys, "report", "run", "--out", out)
    assert (status, shown) == (0, f"Written: {written}, from 1 run\n")
    assert (tmp_path / written).is_file()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("./missing", "there is no folder ./missing; paths are relative to"),
     ("some.csv", "some.csv is not an .npz file. Expected an .npz file or a folder of images.")],
)  # fmt: skip
def test_data_that_look_like_a_path(tmp_path, monkeypatch, capsys, name, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.csv").write_text("1,2")
    status, _, err = run_command(capsys, "compare", "--data", name)
    assert status == cli.BAD_INPUT
    assert reason in err


# Names


@pytest.mark.parametrize(
    ("method", "layers", "reason"),
    [
        ("manifold mixp", ("hidden1",), "Did you mean 'manifold mixup'?"),
        ("input", ("input",), "Did you mean 'input mixup'?"),
        ("none", (), "Did you mean 'no mixup'?"),
        ("no mixup", ("hidden1",), "with layers hidden1 it is manifold mixup"),
        ("manifold mixup", (), "it is no mixup"),
        ("manifold mixup", ("input",), "it is input mixup"),
    ],
)
def test_a_method_that_says_something_else_than_what_is_mixed(plain, method, layers, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_recipe(replace(plain, method=method, layers=layers))


@pytest.mark.parametrize("method", ["no mixup", "dropout 0.5", "mixed factors", "weight decay 0.1"])
def test_other_names_of_a_method_are_free(plain, method):
    check_recipe(replace(plain, method=method))
    check_recipe(replace(plain, method="manifold mixup α=2, mine", layers=("input", "hidden1")))


# Progress


def told(run, *, width=80, terminal=False, do):
    console = Console(width=width, force_terminal=terminal, color_system=None)
    with console.capture() as capture, Live([run], console) as live:
        do(live)
        live._bars.refresh()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capture.get())


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_epoch_and_the_time_left_are_read_at_any_width(plain, width):
    run = replace(plain, method="manifold mixup α=2, gradient blocked", epochs=400, seed=13)
    epoch = Epoch(12, 1.234567, 12.3, 0.5)
    lines = told(run, width=width, terminal=True, do=lambda live: live.epoch(run, epoch))
    last = [line for line in lines.splitlines() if "epoch" in line][-1]
    assert len(last) <= width
    assert "left" in last
    assert "13/400" in last
    if width >= 80:
        assert ", seed 13" in last
        assert re.search(r"(-:--|\d+:\d\d) left", last)


def test_a_line_for_each_epoch_in_a_file(plain):
    epoch = Epoch(2, 0.25, 12.5, 0.5)
    assert told(plain, do=lambda live: live.epoch(plain, epoch)) == (
        "no mixup, seed 0: epoch 2/3, train loss 0.250, test error 12.50 %, NLL 0.500\n"
    )


@pytest.mark.parametrize("terminal", [False, True])
def test_an_epoch_that_was_not_evaluated_shows_its_loss_alone(plain, terminal):
    epoch = Epoch(2, 0.25, math.nan, math.nan)
    shown = told(plain, terminal=terminal, do=lambda live: live.epoch(plain, epoch))
    assert "loss 0.250" in shown
    assert "nan" not in shown
    assert "error" not in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_where_a_run_goes_on(plain, terminal):
    within = told(plain, terminal=terminal, do=lambda live: live.start(plain, Start(2, 5, 8)))
    assert "no mixup, seed 0: resumed in epoch 2 of 3, after 5 of 8 steps" in within
    finished = Start(3, 0, 0, finished=True)
    done = told(plain, terminal=terminal, do=lambda live: live.start(plain, finished))
    assert "The run was already finished: nothing was trained." in done


def test_a_training_says_where_it_begins(plain, task, tmp_path):
    starts = []
    calls = iter(range(1000))
    with pytest.raises(Stopped):
        train(plain, task, folder=tmp_path, on_start=starts.append, stop=lambda: next(calls) == 10)
    assert starts == []  # the run is new
    train(plain, task, folder=tmp_path, on_start=starts.append)
    train(plain, task, folder=tmp_path, on_start=starts.append)
    # 8 steps per epoch; the end of the first epoch calls it once more
    assert starts == [Start(2, 2, 8), Start(3, 0, 0, finished=True)]


# Smoke tests


def test_a_smoke_test_says_that_its_numbers_mean_nothing(task, runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(plots, "comparison_picture", lambda *_, **__: plots.Picture(b"", b""))
    assert compare(Comparison(runs, task, 1, tmp_path, smoke=True))
    shown = capsys.readouterr().out
    content = strict((tmp_path / "results.json").read_text())
    table = (tmp_path / "table.md").read_text()
    assert "SMOKE TEST: blobs" in shown
    assert " ".join(SMOKE.split()) in " ".join(shown.split())
    assert SMOKE in table
    assert content["smoke"] is True
    assert all(row["difference"] is None for row in content["summary"])
    assert all(one["std"] is None for row in content["summary"] for one in row["spread"].values())
    for text in (shown, table):
        assert not re.search(r"\d ± \d|\[[−+]", text)
    assert compare(replace(Comparison(runs, task, 1, tmp_path), smoke=False))
    assert re.search(r"\d ± \d", capsys.readouterr().out)


@pytest.fixture(scope="module")
def results(task, runs):
    return [train(run, task) for run in runs]


def test_the_picture_of_a_smoke_test_draws_no_spread(results, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    for name in ("errorbar", "fill_between"):
        kept_one = getattr(Axes, name)
        monkeypatch.setattr(
            Axes, name, lambda *a, _n=name, _f=kept_one, **k: drawn.append(_n) or _f(*a, **k)
        )
    rows = summarise(results, ["no mixup", "input mixup", "manifold mixup"])
    plots.comparison_picture(results, only_means(rows), title="", smoke=True)
    assert drawn == []
    plots.comparison_picture(results, rows, title="")
    assert set(drawn) == {"errorbar", "fill_between"}


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_number_of_the_table_is_cut(results, width):
    rows = summarise(results, ["no mixup", "input mixup", "manifold mixup"])
    wide = replace(rows[1].difference["nll"], low=-1044.987, high=1256.273)
    rows[1] = replace(rows[1], difference=rows[1].difference | {"nll": wide})
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(terminal_table(rows, title="a title", width=width))
    shown = capture.get()
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    assert "[−1044.987," in shown
    assert "+1256.273]" in shown
    assert "+1256.273]" in markdown_table(rows, title="", caption="")
