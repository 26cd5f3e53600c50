"""The command from end to end: good input, bad input, Ctrl-C."""

import functools
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lab_runs
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.candidates.registered import CANDIDATES
from manifold_mixup.lab.commands.compare import Options as Compare
from manifold_mixup.lab.commands.compare import prepare
from manifold_mixup.lab.commands.compare import run as compare
from manifold_mixup.lab.commands.compare.output import finished_spirals
from manifold_mixup.lab.data import spirals
from manifold_mixup.lab.evaluate import Settings, evaluate
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.paper import figures
from manifold_mixup.lab.report import plots
from manifold_mixup.lab.report.gather import gather
from manifold_mixup.lab.runs.evaluation import trained
from manifold_mixup.lab.runs.folder import folder_name

ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared" / "data"


run = functools.partial(lab_runs.run, "compare")
ROWS = ("conf. off data ↓", "outside % ↓", "within % ↓", "paper's s₁ % ↑")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the picture, which takes a second."""
    monkeypatch.setattr(plots, "comparison_picture", lambda *_, **__: plots.Picture(b"", b""))


def test_an_npz_end_to_end(tmp_path, npz, capsys):
    out = tmp_path / "out"
    assert run("--data", npz, "--smoke", "--workers", 1, "--out", out) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "compare.png",
        "compare.svg",
        "results.json",
        "runs",
        "table.md",
    ]
    text = (out / "results.json").read_text()
    assert str(tmp_path) not in text
    content = json.loads(text)
    assert content["complete"]
    assert content["attack"]["space"] == "standard deviations"
    assert content["data"]["name"] == "blobs"
    assert {run["run"]["method"] for run in content["runs"]} == {
        "no mixup",
        "input mixup",
        "manifold mixup",
    }
    assert [run["run"]["seed"] for run in content["runs"]] == [0, 0, 0, 1, 1, 1]
    assert {"git", "versions", "machine", "started", "wall_seconds"} <= content.keys()
    (*_, origin) = (out / "table.md").read_text().splitlines()
    assert origin.startswith(f"{content['machine']['cpu']} (")
    assert origin.endswith(f"commit {content['git'] or 'unknown'}.")
    assert f"PyTorch {content['versions']['torch']}, " in origin
    shown = capsys.readouterr().out
    assert "manifold mixup" in shown
    assert "ε = 0.1 in standard deviations" in " ".join(shown.split())
    for text in (shown, (out / "table.md").read_text()):
        assert all(text.count(row) == times for row, times in zip(ROWS, (1, 2, 2, 2), strict=True))
        assert all(f"flatness at {layer}" in text for layer in ("hidden1", "hidden2"))
        assert "Power" not in text  # the numbers of a smoke test mean nothing
    assert content["power"] == {}
    again = (out / "results.json").stat().st_mtime
    assert run("--data", npz, "--smoke", "--workers", 1, "--out", out) == 0
    assert "9 of 9 runs were already finished: nothing was trained." in capsys.readouterr().out
    assert (out / "results.json").stat().st_mtime > again
    later = json.loads((out / "results.json").read_text())
    assert [one["more"] for one in later["runs"]] == [one["more"] for one in content["runs"]]


def test_what_is_measured_beside_the_scores_is_what_evaluate_finds(tmp_path, npz, task):
    options = Compare(
        data=str(npz), out=tmp_path, seeds=1, epochs=1, workers=1, spirals=False,
        methods=("none", "input"),
    )  # fmt: skip
    comparison = prepare(options)
    assert comparison.layers == ("hidden1", "hidden2")  # S, though neither method mixes there
    assert list(comparison.sources) == ["blobs.npz"]
    compare(comparison)
    (one, _) = json.loads((tmp_path / "results.json").read_text())["runs"]
    data, settings = comparison.data, Settings(layers=comparison.layers)
    model = trained(comparison.folder / folder_name(comparison.runs[0]), data)
    found = evaluate(model, data, battery=["confidence", "flatness"], settings=settings)
    first, second = found["flatness"]
    assert one["more"] == {
        "confidence": found["confidence"][0]["greatest"],
        "outside at hidden1": first["outside"],
        "within at hidden1": first["within"],
        "s1 at hidden1": first["s1_share"],
        "outside at hidden2": second["outside"],
        "within at hidden2": second["within"],
        "s1 at hidden2": second["s1_share"],
    }


def test_the_spirals_are_those_of_figure_1_with_one_seed(tmp_path, npz):
    comparison = prepare(Compare(data=str(npz), out=tmp_path))
    rows = [row.run for row in figures.figure_1().rows]
    assert [replace(run, method="") for run in comparison.spirals] == [
        replace(run, method="") for run in rows
    ]
    spirals = comparison.sources["spirals"]
    assert spirals.x.equal(datasets.load("spirals", root=tmp_path).x)
    assert len({run.method for run in (*comparison.runs, *comparison.spirals)}) == 6
    assert prepare(Compare(data=str(npz), out=tmp_path, spirals=False)).spirals == ()
    assert prepare(Compare(data="spirals", model="spiral-mlp", out=tmp_path)).spirals == ()


def test_a_regression_has_neither_spirals_nor_states(tmp_path, task):
    numbers = {"x_train": task.x, "y_train": task.x[:, 0], "x_test": task.x_test}
    arrays = {name: value.numpy() for name, value in numbers.items()}
    np.savez(tmp_path / "numbers.npz", **arrays, y_test=task.x_test[:, 0].numpy())
    out = tmp_path / "out"
    assert run("--data", tmp_path / "numbers.npz", "--smoke", "--workers", 1, "--out", out) == 0
    content = json.loads((out / "results.json").read_text())
    assert all(one["more"] == {} for one in content["runs"])
    assert len(list((out / "runs").iterdir())) == 6
    assert not any(row in (out / "table.md").read_text() for row in ROWS)


def test_the_default_is_the_documented_one():
    options = Compare()
    assert (options.data, options.model, options.seeds) == ("spirals-100", None, 5)


def test_the_default_is_the_registered_task_with_its_frozen_settings(tmp_path):
    comparison = prepare(Compare(out=tmp_path))
    (task,) = (one for one in CANDIDATES if one.name == "spirals")
    frozen = json.loads((ROOT / "results" / "candidates" / "frozen.json").read_text())["spirals"]
    for run in comparison.runs[:3]:
        settings = {
            name: tuple(v) if isinstance(v, list) else v for name, v in frozen[run.method].items()
        }
        registered = task.recipe(run.method, settings, run.seed)
        same = replace(run, data="spirals", alpha=registered.alpha)
        assert same == registered
        assert not run.layers or run.alpha == registered.alpha
    assert "one of the two on which manifold mixup beats input mixup" in comparison.caption
    for name, data in comparison.draws.items():
        assert data.y.bincount().tolist() == [100, 100], name


def test_the_default_draws_anew_for_each_seed_the_same_for_all_methods(tmp_path):
    comparison = prepare(Compare(out=tmp_path, seeds=3))
    names = [run.data for run in comparison.runs]
    assert names == [f"spirals-100:{seed}" for seed in range(3) for _ in range(3)]
    draws = [comparison.sources[f"spirals-100:{seed}"] for seed in range(3)]
    for one, other in itertools.combinations(draws, 2):
        assert not one.x.equal(other.x)
        assert not one.x_test.equal(other.x_test)
    assert draws[2].x.equal(spirals.load(per_class=100, seed=2).x)
    assert comparison.title.startswith("Two spirals (200 training, 2,000 test examples, drawn anew")


def test_without_redraw_all_seeds_have_the_usual_draw(tmp_path):
    comparison = prepare(Compare(out=tmp_path, seeds=2, redraw=False))
    assert {run.data for run in comparison.runs} == {"spirals-100"}
    assert "drawn anew" not in comparison.title
    assert comparison.draws == {}


def test_one_draw_can_be_named(tmp_path):
    comparison = prepare(Compare(data="spirals-100:7", out=tmp_path, seeds=2))
    assert {run.data for run in comparison.runs} == {"spirals-100:7"}
    assert comparison.title.startswith("Two spirals, draw 7 (200 training")
    assert comparison.runs[0].model == "spiral-mlp"
    assert comparison.spirals == ()  # the data are spirals already
    other = prepare(Compare(out=tmp_path, seeds=8)).sources["spirals-100:7"]
    assert comparison.data.x.equal(other.x)


def test_examples_of_the_default_may_be_all_or_few(tmp_path):
    for examples in (200, 50):
        comparison = prepare(Compare(out=tmp_path, seeds=2, examples=examples))
        assert {len(data.x) for data in comparison.draws.values()} == {examples}


@pytest.mark.usefixtures("undrawn")
def test_the_default_end_to_end(tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--smoke", "--workers", 1, "--out", out) == 0
    content = json.loads((out / "results.json").read_text())
    names = [one["run"]["data"] for one in content["runs"]]
    assert names == 3 * ["spirals-100:0"] + 3 * ["spirals-100:1"]
    assert len(list((out / "runs").iterdir())) == 6  # its own runs give the boundaries
    draws = content["data"]["draws"]
    assert draws["spirals-100:0"] == content["data"]["sha256"] != draws["spirals-100:1"]
    assert all(one["more"]["within at bottleneck"] > 0 for one in content["runs"])
    page = out / "report.html"
    assert lab_runs.run("report", out, "--out", page) == 0
    assert "Decision boundaries" in page.read_text()
    assert "spirals-100, drawn anew for each seed" in page.read_text()


def test_only_the_frozen_settings_are_called_selected(tmp_path):
    options = Compare(out=tmp_path, seeds=2)
    assert "Selected: of eight tasks" in prepare(options).caption
    assert "Selected: of eight tasks" in prepare(replace(options, redraw=False)).caption
    for other in (
        {"alpha": 1.0}, {"epochs": 7}, {"data": "spirals"}, {"methods": ("none", "manifold")},
        {"smoke": True},
    ):  # fmt: skip
        assert "Selected" not in prepare(replace(options, **other)).caption


@pytest.mark.usefixtures("undrawn")
def test_boundaries_are_left_out_on_request(tmp_path):
    few = {"epochs": 1, "seeds": 1, "workers": 1, "methods": ("none",), "out": tmp_path}
    assert list(finished_spirals(after(Compare(**few)))) == ["no mixup"]
    assert list(finished_spirals(after(Compare(**few, spirals=False)))) == []


@pytest.mark.usefixtures("undrawn")
def test_a_report_tells_draws_of_seeds_from_one_draw(tmp_path):
    few = {"epochs": 1, "workers": 1, "methods": ("none",), "seeds": 2}
    for name, data in {"anew": "spirals-100", "one": "spirals:1"}.items():
        after(Compare(**few, data=data, out=tmp_path / name))
    after(Compare(**few, redraw=False, out=tmp_path / "usual"))
    anew, one, usual = (gather([tmp_path / name]) for name in ("anew", "one", "usual"))
    assert {item.row.data for item in anew.items} == {"spirals-100, drawn anew for each seed"}
    assert {item.row.data for item in one.items} == {"spirals:1"}  # seed 1 has that draw too
    assert {item.row.data for item in usual.items} == {"spirals-100"}
    for found in (anew, one, usual):
        assert [len(found.of(row)) for row in found.table.rows] == [2]
    with pytest.raises(ValueError, match="the runs have different data"):
        gather([tmp_path / "anew", tmp_path / "usual"])
    shutil.copytree(tmp_path / "usual", tmp_path / "copied" / "usual")
    with pytest.raises(ValueError, match="two folders have the same run"):
        gather([tmp_path / "usual", tmp_path / "copied"])


@pytest.mark.usefixtures("undrawn")
def test_a_report_of_two_comparisons_in_one_folder_drops_neither(tmp_path, npz):
    few = {"epochs": 1, "workers": 1, "methods": ("none",), "seeds": 1, "out": tmp_path / "out"}
    after(Compare(**few))
    comparison = prepare(Compare(**few, data=str(npz)))
    first = replace(comparison.spirals[0], epochs=1)
    assert compare(replace(comparison, spirals=(first,)))
    with pytest.raises(ValueError, match="the runs have different data"):
        gather([tmp_path / "out"])


def after(options):
    comparison = prepare(options)
    assert compare(comparison)
    return comparison


def test_boundaries_are_those_of_the_first_seed_on_its_own_draw(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        plots,
        "comparison_picture",
        lambda *_, spirals, **__: drawn.update(spirals) or plots.Picture(b"", b""),
    )
    comparison = prepare(Compare(out=tmp_path, seeds=2, epochs=1, workers=1))
    assert compare(comparison)
    assert list(drawn) == ["no mixup", "input mixup", "manifold mixup"]
    points = comparison.sources["spirals-100:0"].x.double().numpy()
    assert all(np.array_equal(view.points, points) for view in drawn.values())


def test_methods_differ_in_nothing_but_where_and_how_they_mix(tmp_path, npz):
    comparison = prepare(Compare(data=str(npz), out=tmp_path / "out"))
    assert comparison.methods == ["no mixup", "input mixup", "manifold mixup"]
    for one in comparison.runs:
        same = replace(one, method="no mixup", layers=(), alpha=comparison.runs[0].alpha, seed=0)
        assert same == comparison.runs[0]


def test_options_override_what_was_chosen(tmp_path, npz):
    options = Compare(
        data=str(npz), out=tmp_path, seeds=1, epochs=7, alpha=0.3, layers=("hidden2",), lr=0.01,
        eps=0.5, examples=100,
    )  # fmt: skip
    comparison = prepare(options)
    plain, at_input, hidden = comparison.runs
    assert (plain.layers, at_input.layers, hidden.layers) == ((), ("input",), ("hidden2",))
    assert (at_input.alpha, hidden.alpha) == (0.3, 0.3)
    assert {(run.epochs, run.lr) for run in comparison.runs} == {(7, 0.01)}
    assert comparison.data.eps == 0.5
    assert len(comparison.data.x) == 100


def test_methods_of_any_number_with_no_mixup_first(tmp_path, npz):
    methods = ("manifold,remix", "none", "remix", "same-class")
    comparison = prepare(Compare(data=str(npz), methods=methods, seeds=2, out=tmp_path))
    assert comparison.methods == ["no mixup", "manifold mixup", "Remix", "same-class mixup"]
    assert len(comparison.runs) == 8
    assert "Remix: learning rate 0.001, α 1 at input, label remix" in comparison.caption


def test_layers_of_hidden_methods_only_are_overridden(tmp_path, npz):
    methods = ("none", "input", "remix", "same-class", "manifold")
    options = Compare(data=str(npz), methods=methods, layers=("hidden2",), seeds=1, out=tmp_path)
    layers = [run.layers for run in prepare(options).runs]
    assert layers == [(), ("input",), ("input",), ("hidden2",), ("hidden2",)]


@pytest.mark.usefixtures("undrawn")
def test_other_methods_end_to_end(tmp_path, npz, capsys, monkeypatch):
    def still(methods):
        return f"Not moved: {[(name, len(scores)) for name, scores in methods.items()][:2]}."

    monkeypatch.setattr("manifold_mixup.lab.report.unmoved.unmoved", still)
    out = tmp_path / "out"
    methods = ("--methods", "none", "manifold", "other-class", "remix", "regmixup")
    few = ("--epochs", 1, "--seeds", 2, "--workers", 1, "--no-spirals")
    assert run("--data", npz, *methods, *few, "--out", out) == 0
    content = json.loads((out / "results.json").read_text())
    assert [one["run"]["pairs"] for one in content["runs"]] == 2 * [
        "any",
        "any",
        "other_class",
        "any",
        "any",
    ]
    gaps = [row["to_manifold"] is None for row in content["summary"]]
    assert gaps == 2 * [True, True, False, False, False]
    table = (out / "table.md").read_text()
    assert "difference to manifold mixup" in table
    assert "flatness at hidden1, difference to manifold mixup" in table
    assert "Power: with 2 seeds" in table
    assert "\nNot moved: [('no mixup', 2), ('manifold mixup', 2)].\n" in table
    assert "Not moved:" in capsys.readouterr().out
    assert "other-class mixup − manifold mixup" in content["power"]


@pytest.mark.usefixtures("undrawn")
def test_methods_that_cut_end_to_end(tmp_path, npz, capsys):
    out = tmp_path / "out"
    methods = ("--methods", "none", "cutmix", "manifold-cutmix", "alignmixup")
    options = ("--data", npz, "--model", "cnn", "--smoke", "--workers", 1, "--out", out)
    assert run(*options, *methods, "--no-spirals") == 0
    content = json.loads((out / "results.json").read_text())
    assert content["complete"]
    assert [one["run"]["blend"] for one in content["runs"]] == 2 * [
        "interpolate",
        "cut",
        "cut",
        "align",
    ]
    assert [one["run"]["layers"][-1:] for one in content["runs"][:4]] == [
        [],
        ["input"],
        ["stage2"],
        ["stage3"],
    ]
    assert len({one["weights"] for one in content["runs"]}) == 8  # each has trained in its own way
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("CutMix", "manifold CutMix", "AlignMixup"))


BAD = {
    "method": (["--methods", "none", "remx"], "no kind of mixing 'remx'. Did you mean 'remix'?"),
    "no method": (["--methods"], "--methods names no method."),
    "method without positions": (
        ["--methods", "none", "cutmix"],
        "(--model cnn, for images and signals)",
    ),
    "method of another task": (["--methods", "none", "c-mixup"], "but blobs has classes"),
    "data set": (["--data", "fashion-minst"], "no data set 'fashion-minst'. Did you mean 'fashion"),
    "model": (["--model", "cmn"], "no model 'cmn'. Did you mean 'cnn'? Known: mlp, "),
    "layer": (["--layers", "hiden1"], "hidden1"),
    "no layer": (["--layers"], "--layers names no layer."),
    "alpha": (["--alpha", "0"], "alpha"),
    "seeds": (["--seeds", "0"], "--seeds is 0. Expected 1 or more."),
    "epochs": (["--epochs", "-3"], "--epochs is -3. Expected 1 or more."),
    "lr": (["--lr", "nan"], "--lr is nan. Expected a finite number above 0."),
    "weight decay": (["--weight-decay", "-1"], "--weight-decay is -1.0. Expected a finite"),
    "redraw": (
        ["--redraw", "True"],
        "--redraw draws generated data anew for each seed, but --data is ",
    ),
    "redraw of a draw": (["--data", "spirals:3", "--redraw", "True"], "but --data is spirals:3"),
    "draw of what is not generated": (
        ["--data", "cifar-10:3"],
        "cifar-10:3 asks for a draw of cifar-10, which cannot be drawn with a seed. Only mnist-1d",
    ),
    "cnn of points": (
        ["--data", "spirals", "--model", "cnn", "--methods", "none", "cutmix"],
        "a CNN expects images, or signals of at least 4 values, but Two spirals has vectors of 2.",
    ),
    "seed of a draw": (
        ["--data", "spirals:-1"],
        "the seed of the draw spirals:-1 is '-1'. Expected a whole number from 0 to 4293967295",
    ),
    "too great a seed": (["--data", "mnist-1d:4294000000"], "is '4294000000'. Expected a whole"),
    "seed with a zero": (["--data", "spirals:03"], "such as spirals:3."),
    "eps": (["--eps", "-0.1"], "--eps is -0.1. Expected a finite number above 0."),
    "examples": (["--examples", "251"], "251 training examples were requested, but blobs has 250."),
    "device": (["--device", "gpu"], "cannot use device 'gpu': "),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_before_any_training(tmp_path, npz, capsys, monkeypatch, case):
    arguments, message = BAD[case]
    monkeypatch.setattr(processes, "train_all", lambda *_, **__: pytest.fail("training began"))
    data = [] if "--data" in arguments else ["--data", npz]
    assert run(*data, "--out", tmp_path / "out", *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_named_first(tmp_path, npz, capsys):
    (tmp_path / "file").touch()
    assert run("--data", npz, "--out", tmp_path / "file" / "out") == 2
    assert "cannot write into" in capsys.readouterr().err


def test_a_malformed_file_gets_one_line(tmp_path, capsys):
    np.savez(tmp_path / "half.npz", x_train=np.ones((3, 2)), y_train=np.arange(3))
    assert run("--data", tmp_path / "half.npz", "--out", tmp_path / "out") == 2
    assert "half.npz has no x_test and no y_test" in capsys.readouterr().err


def test_a_missing_extra_is_named_with_the_way_to_get_it(capsys, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "mnist1d" else there(name)
    )
    assert run("--smoke") == 2
    assert capsys.readouterr().err == (
        "error: the lab needs mnist1d, which is not installed. "
        "Install it with: pip install 'manifold-mixup[lab]'\n"
    )


def test_help_explains_every_option(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    for option in ("--data", "--model", "--seeds", "--epochs", "--root", "--out", "--smoke"):
        assert option in shown


@pytest.mark.usefixtures("undrawn")
def test_ctrl_c_keeps_what_was_finished(tmp_path, npz, capsys, monkeypatch):
    comparison = prepare(Compare(data=str(npz), out=tmp_path / "out", epochs=2, workers=1))
    finish = processes.train_all

    def interrupted(*arguments, **options):
        for count, result in enumerate(finish(*arguments, **options)):
            if count == 4:
                raise KeyboardInterrupt
            yield result

    monkeypatch.setattr(processes, "train_all", interrupted)
    assert compare(comparison) is False
    shown = " ".join(capsys.readouterr().out.split())
    assert "Stopped: 4 of 15 runs were finished, and 0 of 3 on the spirals." in shown
    assert "covers the 1 seed that all methods have finished" in shown
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not content["complete"]
    assert len(content["runs"]) == 4


def test_a_diverging_run_is_said_and_what_was_finished_stays(tmp_path, npz, capsys):
    out = tmp_path / "out"
    options = ("--epochs", 1, "--lr", 1e18, "--workers", 1, "--no-spirals", "--out", out)
    assert run("--data", npz, *options) == 1
    assert "the loss is nan in epoch 1. A learning rate below 1e+18" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_ctrl_c_on_real_workers_leaves_no_traceback(tmp_path, npz):
    command = [sys.executable, "-m", "manifold_mixup.lab", "compare", "--data", str(npz)]
    command += ["--epochs", "50", "--seeds", "200", "--workers", "2", "--out", str(tmp_path / "o")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    results, patience = tmp_path / "o" / "results.json", time.monotonic() + 90
    while not results.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # to the workers too, like a terminal
    try:
        shown, errors = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    assert process.returncode == 130, errors
    assert "of 600 runs were finished" in shown
    assert "Traceback" not in errors
    assert json.loads(results.read_text())["runs"]


@pytest.mark.thorough  # other files of bytes have the same attack
@pytest.mark.skipif(not (REAL / "FashionMNIST").is_dir(), reason="no copy of Fashion-MNIST at hand")
def test_fashion_mnist_end_to_end(tmp_path, monkeypatch):
    options = Compare(
        data="fashion-mnist", model="cnn", root=REAL, out=tmp_path, smoke=True, workers=1,
        spirals=False,
    )  # fmt: skip
    comparison = prepare(options)
    small = replace(
        comparison.data,
        x_test=comparison.data.x_test[:200],
        y_test=comparison.data.y_test[:200],
    )
    assert compare(replace(comparison, data=small, runs=comparison.runs[:3]))
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["attack"] == {
        "name": "FGSM", "eps": 8 / 255, "space": "pixel space [0, 1]", "bounds": [0, 1],
    }  # fmt: skip
