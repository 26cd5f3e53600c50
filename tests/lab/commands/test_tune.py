"""`tune` from end to end: what it finds, what it never reads, and how it resumes."""

import functools
import json
import math
import shlex
import sqlite3
import statistics
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from filelock import FileLock
from scipy import stats

import command_worker
import lab_runs
import processes as multiple
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import hold_out, mnist1d
from manifold_mixup.lab.data import npz as npz_files
from manifold_mixup.lab.data.validation import _generated, validation
from manifold_mixup.lab.launch import processes
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes.recipe import three_methods
from manifold_mixup.lab.runs.result import read_run
from manifold_mixup.lab.training.loop import train

WAYS = ("none", "input", "manifold")
SMALL = ("--trials", 3, "--seeds", 2, "--final-seeds", 3, "--epochs", 1, "--workers", 1)

# Of a single training each
TINY = ("--trials", 1, "--seeds", 1, "--final-seeds", 1, "--epochs", 1, "--workers", 1)

tune = functools.partial(lab_runs.run, "tune")


def trials_of(path, way):
    """Read the trials of a way with Optuna alone."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    found = optuna.load_study(study_name=way, storage=storage).trials
    storage.engine.dispose()
    return found


def attributes_of(path):
    """Read what a search found, with SQL alone."""
    with sqlite3.connect(path) as file:
        rows = file.execute("SELECT key, value_json FROM study_user_attributes").fetchall()
    file.close()
    return {key: json.loads(value) for key, value in rows}


def facts(path, ways=WAYS):
    """All of a search but the times."""
    trials = {
        way: [(one.params, one.value, one.user_attrs["scores"]) for one in trials_of(path, way)]
        for way in ways
    }
    finals = attributes_of(path)["found: finalists"]
    weights = {way: [one["weights"] for one in finals[way]] for way in ways}
    return trials, weights


@pytest.fixture(scope="module")
def finished(tmp_path_factory, file):
    """A finished search: its study and what it printed."""
    folder = tmp_path_factory.mktemp("tuned")
    path, printed = folder / "study.db", folder / "printed"
    with printed.open("w") as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", "80")
        assert tune("--data", file, *SMALL, "--study", path) == 0
    return path, printed.read_text()


def test_the_table_is_what_the_study_says(finished):
    path, printed = finished
    finals = attributes_of(path)["found: finalists"]
    errors = {way: [one["last"]["error"] for one in finals[way]] for way in WAYS}
    for way, method in zip(WAYS, ("no mixup", "input mixup", "manifold mixup"), strict=True):
        mean, std = statistics.fmean(errors[way]), statistics.stdev(errors[way])
        (line,) = (text for text in printed.splitlines() if text.startswith(method) and "±" in text)
        assert f"{mean:.2f} ± {std:.2f}" in line
        trials = trials_of(path, way)
        best = min(trials, key=lambda one: one.value)
        assert all(one["run"]["lr"] == best.params["lr"] for one in finals[way])
        assert [one["run"]["seed"] for one in finals[way]] == [2, 3, 4]  # no trial has had these
        assert f"learning rate {best.params['lr']:g}" in printed
        for one in trials:
            assert one.value == statistics.fmean(
                score["error"] for score in one.user_attrs["scores"]
            )
        if way != "none":
            gaps = np.subtract(errors[way], errors["none"])
            low, high = stats.t.interval(
                0.95, len(gaps) - 1, loc=gaps.mean(), scale=max(stats.sem(gaps), 1e-300)
            )
            assert f"{gaps.mean():+.2f} [{low:+.2f}, {high:+.2f}]".replace("-", "−") in line


def test_every_way_has_the_same_budget(finished):
    path, printed = finished
    assert "3 ways, 3 trials each, 2 seeds per trial" in printed
    for way in WAYS:
        trials = trials_of(path, way)
        assert len(trials) == 3
        assert [len(one.user_attrs["scores"]) for one in trials] == [2, 2, 2]


def test_the_first_trial_is_the_recipe(finished):
    path, _ = finished
    for way, run in zip(WAYS, three_methods("blobs.npz", "mlp"), strict=True):
        first = trials_of(path, way)[0].params
        expected = {"lr": run.lr, "weight_decay": run.weight_decay}
        if run.layers:
            expected |= {"alpha": run.alpha, "layers": "+".join(run.layers)}
        assert first == expected


def test_numbers_are_chosen_by_rmse(tmp_path, capsys):
    options = ("--ways", "input", "--trials", 2, "--seeds", 1, "--final-seeds", 2, "--epochs", 1)
    path = tmp_path / "study.db"
    asked = ("--data", "diabetes", *options, "--workers", 1, "--study", path)
    assert tune(*asked) == 0
    printed = capsys.readouterr().out
    assert "mean validation RMSE" in printed
    assert "nan" not in printed
    for way in ("none", "input"):
        for one in trials_of(path, way):
            (score,) = one.user_attrs["scores"]
            assert one.value == score["rmse"] > 0
    (line,) = (text for text in printed.splitlines() if "seed 0, whose test RMSE is" in text)
    assert float(line.split()[-1].rstrip(".")) > 0
    table = (tmp_path / "study-runs" / "trials.md").read_text()
    assert "| RMSE | R² |" in table
    assert "nan" not in table
    # saying it is no other search
    assert tune(*asked, "--metric", "rmse") == 0


@pytest.fixture
def houses(tmp_path):
    """A file with numbers as targets, in large units."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(250, 4))
    y = 1e5 * (x[:, 0] + 0.1 * rng.normal(size=250)) + 3e5
    np.savez(
        tmp_path / "houses.npz", x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:]
    )
    return tmp_path / "houses.npz"


def test_numbers_of_a_file_and_the_bandwidth_of_their_pairs(houses, tmp_path, capsys, one_thread):
    path = tmp_path / "study.db"
    options = ("--ways", "c-mixup", "--trials", 3, "--seeds", 1, "--final-seeds", 1, "--epochs", 9)
    asked = ("--data", houses, *options, "--lr", 0.001, 0.03, "--workers", 1, "--study", path)
    assert tune(*asked) == 0
    printed = capsys.readouterr().out
    std = np.load(houses)["y_train"].std()
    first, *others = (one.params["bandwidth"] for one in trials_of(path, "c-mixup"))
    assert first == pytest.approx(std, rel=0.005)
    assert all(std / 11 < one < 3.1 * std for one in others)
    assert len({first, *others}) == 3
    assert "bandwidth" not in trials_of(path, "none")[0].params
    assert f", bandwidth {first:g} |" in (tmp_path / "study-runs" / "trials.md").read_text()
    (line,) = (text for text in printed.splitlines() if text.startswith("  manifold-mixup train"))
    _, *words = shlex.split(line)
    assert lab_runs.run(*words, "--out", tmp_path / "run") == 0
    trained = json.loads((tmp_path / "run" / "result.json").read_text())["result"]
    assert f"seed 0, whose test RMSE is {trained['last']['rmse']:.4f}." in printed
    assert trained["last"]["rmse"] < std


@pytest.fixture
def few_signals(monkeypatch):
    """Let MNIST-1D have few signals, and keep none of them for other tests."""
    for part, count in {"TRAIN": 400, "TEST": 100, "MORE": 300}.items():
        monkeypatch.setattr(mnist1d, part, count)
    _generated.cache_clear()
    yield
    _generated.cache_clear()


@pytest.mark.usefixtures("few_signals")
def test_a_study_without_a_name_is_named_after_data_and_model(tmp_path, monkeypatch):
    from manifold_mixup.lab.commands.tune import Options, prepare

    monkeypatch.chdir(tmp_path)
    assert prepare(Options(examples=50)).study == Path("runs") / "tune-mnist-1d-mlp.db"
    assert (tmp_path / "runs" / "tune-mnist-1d-mlp.db").exists()


@pytest.mark.usefixtures("few_signals")
def test_the_share_of_blocks_is_searched(tmp_path):
    from manifold_mixup.lab.commands.tune import Options, prepare

    ways = ("patchup-soft", "patchup-hard", "cutmix")
    options = Options(model="cnn", ways=ways, examples=50, share=(0.3, 0.6), study=tmp_path / "a")
    spaces = {way.name: way.space for way in prepare(options).search.ways}
    assert spaces["patchup-soft"].share == spaces["patchup-hard"].share == (0.3, 0.6)
    assert spaces["cutmix"].share == spaces["none"].share == ()


def test_ict_learns_from_examples_without_labels_and_its_own_settings_are_searched(
    file, tmp_path, capsys, one_thread
):
    path = tmp_path / "study.db"
    asked = ("--data", file, "--ways", "ict", "--examples", 60, "--study", path)
    assert tune(*asked, *TINY, "--trials", 3) == 0
    trials = trials_of(path, "ict")
    first, *others = ((one.params["ict_weight"], one.params["ema"]) for one in trials)
    assert first == (100, 0.999)
    assert all(1 <= weight <= 300 and 0.9 <= ema <= 0.999 for weight, ema in others)
    assert "ICT weight 100, EMA 0.999 at input" in capsys.readouterr().out

    # What a trial measured is what training with its settings and the others' inputs gives.
    number = min(range(3), key=lambda one: trials[one].value)
    best = attributes_of(path)["found: finalists"]["ict"][0]["run"]
    run = replace(read_run(best), seed=0)
    assert (run.ict_weight, run.ema) == (first, *others)[number]
    split = validation(str(file), root=tmp_path, examples=60, unlabelled=True).split(0)
    assert len(split.unlabelled) == 250 - 60
    assert train(run, split).last.error == trials[number].user_attrs["scores"][0]["error"]


def test_hidden_mixing_is_searched_over_sets_of_layers(finished):
    path, _ = finished
    asked = attributes_of(path)["asked for"]["space"]
    assert asked["manifold"]["layers"] == [
        ["input", "hidden1", "hidden2"],
        ["hidden1", "hidden2"],
        ["hidden1"],
        ["hidden2"],
    ]
    assert asked["input"]["layers"] == [["input"]]
    assert asked["none"]["layers"] == asked["none"]["alpha"] == []


def test_the_printed_command_reproduces_the_test_number(finished, tmp_path, one_thread):
    path, printed = finished
    (line,) = (text for text in printed.splitlines() if text.startswith("  manifold-mixup train"))
    program, *words = shlex.split(line)
    assert program == "manifold-mixup"
    assert lab_runs.run(*words, "--out", tmp_path / "run") == 0
    trained = json.loads((tmp_path / "run" / "result.json").read_text())["result"]
    looked = attributes_of(path)["found: look"]
    (stored,) = (one for one in looked if one["weights"] == trained["weights"])
    assert stored["last"] == trained["last"]
    assert f"seed 0, whose test error is {trained['last']['error']:.2f} %" in printed


def test_a_finished_search_prints_the_stored_look(finished, file, capsys, monkeypatch):
    path, printed = finished
    monkeypatch.setattr(processes, "train_all", None)
    monkeypatch.setattr("manifold_mixup.lab.commands.tune.stages.measure_on_test_set", None)
    monkeypatch.setenv("COLUMNS", "80")
    assert tune("--data", file, *SMALL, "--study", path) == 0
    again = capsys.readouterr().out
    assert "The test set was looked at before" in again
    assert "The look at the test set is used up" in " ".join(again.split())
    table = printed[printed.index("Test set, last epoch") :]
    assert table in again


class Spied(torch.Tensor):
    """A tensor that counts what reads it."""

    reads = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.reads += 1
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


@pytest.fixture
def spied(monkeypatch):
    """Let every test set that is loaded count its reads."""
    load = datasets.load

    def spying(*arguments, **options):
        data = load(*arguments, **options)
        test = {name: getattr(data, name).as_subclass(Spied) for name in ("x_test", "y_test")}
        return replace(data, **test)

    monkeypatch.setattr(datasets, "load", spying)
    monkeypatch.setattr(Spied, "reads", 0)
    return Spied


def test_the_test_set_is_read_once_and_at_the_end(spied, file, tmp_path, capsys):
    command = ("--data", file, *TINY, "--ways", "input", "--study", tmp_path / "study.db")
    assert tune(*command, "--no-test") == 0
    assert spied.reads == 0
    printed = capsys.readouterr().out
    assert "To train it:" in printed
    assert "Test set" not in printed
    assert tune(*command) == 0
    assert (first := spied.reads) > 0
    assert tune(*command) == 0
    assert spied.reads == first


def test_a_search_that_is_stopped_finds_the_same(finished, file, tmp_path, monkeypatch, capsys):
    path, command = tmp_path / "study.db", ("--data", file, *SMALL, "--ways", "input")
    train_all, left = processes.train_all, 6

    def stopping(*arguments, **options):
        nonlocal left
        for result in train_all(*arguments, **options):
            yield result
            left -= 1
            if not left:
                raise KeyboardInterrupt

    monkeypatch.setattr(processes, "train_all", stopping)
    assert tune(*command, "--study", path) == 130  # in the second round
    assert "Stopped: 2 of 6 trials are finished" in " ".join(capsys.readouterr().out.split())
    left = 10
    assert tune(*command, "--study", path) == 130  # among the finalists
    assert tune(*command, "--study", path) == 0
    assert facts(path, WAYS[:2]) == facts(finished[0], WAYS[:2])


@pytest.mark.slow
def test_a_search_that_is_killed_finds_the_same(finished, file, tmp_path):
    path, shown = tmp_path / "study.db", tmp_path / "shown"
    words = ["tune", "--data", file, *SMALL, "--ways", "input", "--study", path]
    search = multiple.context().Process(
        target=command_worker.main, args=(list(map(str, words)), shown), daemon=True
    )
    shown.touch()
    search.start()
    while "2/3" not in shown.read_text():  # in the study, while the round's next trials are not
        assert search.is_alive()
        time.sleep(0.01)
    search.kill()
    search.join()
    assert lab_runs.run(*words) == 0
    assert facts(path, WAYS[:2]) == facts(finished[0], WAYS[:2])


def test_the_result_does_not_depend_on_the_number_of_workers(finished, file, tmp_path):
    path, small = tmp_path / "study.db", [*SMALL[:-1], 2]
    assert tune("--data", file, *small, "--ways", "none", "--no-test", "--study", path) == 0
    ours, theirs = (trials_of(one, "none") for one in (path, finished[0]))
    assert [one.user_attrs["scores"] for one in ours] == [
        one.user_attrs["scores"] for one in theirs
    ]


def test_trials_drawn_together_resume_to_the_same(file, tmp_path, monkeypatch):
    """The fifth to the eighth trial learn from those of earlier rounds, and from no others."""
    command = (
        "--data", file, "--trials", 8, "--together", 3, "--seeds", 1, "--final-seeds", 1,
        "--epochs", 1, "--workers", 1, "--ways", "none", "--no-test", "--study",
    )  # fmt: skip
    assert tune(*command, tmp_path / "whole.db") == 0
    add, left = lab_study().add, 7

    def dying(*arguments):
        nonlocal left
        add(*arguments)
        left -= 1
        if not left:
            raise KeyboardInterrupt

    monkeypatch.setattr(lab_study(), "add", dying)
    assert tune(*command, tmp_path / "stopped.db") == 130  # within the third round
    assert len(trials_of(tmp_path / "stopped.db", "none")) == 7
    assert tune(*command, tmp_path / "stopped.db") == 0
    assert facts(tmp_path / "stopped.db", ["none"]) == facts(tmp_path / "whole.db", ["none"])


def lab_study():
    from manifold_mixup.lab.search.study import StudyFile

    return StudyFile


def test_the_place_and_the_gpus_reach_every_training(file, tmp_path, monkeypatch, capsys):
    """The trials, the best of each way, and the look at the test set."""
    train_all, asked = processes.train_all, []

    def noting(runs, source, *, on, gpus, folder, **options):
        asked.append((folder.name, on, gpus))
        return train_all(runs, source, folder=folder, **options)  # here after all

    monkeypatch.setattr(processes, "train_all", noting)
    monkeypatch.setattr("manifold_mixup.lab.commands.tune.tuning.import_ray", lambda: None)
    command = ("--data", file, *TINY, "--ways", "none", "--study", tmp_path / "study.db")
    assert tune(*command, "--on", "ray", "--gpus", 0.25) == 0
    assert {name for name, *_ in asked} == {"trials", "finalists", "test"}
    assert {tuple(rest) for _, *rest in asked} == {("ray", 0.25)}


def test_without_ray_it_is_named_before_any_training(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(processes, "train_all", None)
    assert tune("--data", file, "--on", "ray", "--study", tmp_path / "study.db") == 2
    assert "Ray is not installed. Install it with: pip install ray" in capsys.readouterr().err


def test_another_seed_draws_other_settings(finished, file, tmp_path):
    path = tmp_path / "study.db"
    few = (*TINY, "--trials", 3, "--ways", "none", "--no-test")
    tune("--data", file, *few, "--seed", 1, "--study", path)
    ours, theirs = (trials_of(one, "none") for one in (path, finished[0]))
    assert ours[0].params == theirs[0].params  # the recipe's own
    assert all(a.params != b.params for a, b in zip(ours[1:], theirs[1:], strict=True))


def test_a_grid_measures_what_a_loop_over_it_measures(file, tmp_path, task, one_thread):
    """Every setting is trained on each seed's own split, and the scores are averaged."""
    path = tmp_path / "study.db"
    status = tune(
        "--data", file, "--sampler", "grid", "--lr", 0.01, 0.02, "--weight-decay", 0.01,
        "--alpha", 0.2, 1.0, "--layers", "input+hidden1+hidden2", "--seeds", 2, "--epochs", 1,
        "--final-seeds", 1, "--workers", 1, "--ways", "manifold", "--no-test", "--study", path,
    )  # fmt: skip
    assert status == 0
    data = npz_files.load(file)
    plain, _, mixed = three_methods("blobs.npz", "mlp")
    for way, run in {"none": plain, "manifold": mixed}.items():
        alphas = (0.2, 1.0) if run.layers else (run.alpha,)
        points = list(product((0.01, 0.02), alphas))
        found = trials_of(path, way)
        assert len(found) == len(points)
        for (lr, alpha), trial in zip(points, found, strict=True):
            for seed, scores in enumerate(trial.user_attrs["scores"]):
                one = replace(run, lr=lr, alpha=alpha, epochs=1, seed=seed)
                last = train(one, hold_out(data, seed=seed)).last
                assert scores["error"] == last.error
                assert scores["nll"] == last.nll
                assert scores["fgsm_accuracy"] == last.fgsm_accuracy
    lines = (tmp_path / "study-runs" / "trials.md").read_text().splitlines()
    assert lines[0] == "| method | lr | weight decay | α | layers | error % | NLL | FGSM acc. % |"
    assert len(lines) == 2 + 2 + 4
    mean = statistics.fmean(
        score["error"] for score in trials_of(path, "none")[0].user_attrs["scores"]
    )
    assert lines[2].startswith(f"| no mixup | 0.01 | 0.01 |  |  | {mean:.2f} |")


def test_diverged_trials_count_and_give_their_reason(file, tmp_path, capsys):
    path = tmp_path / "study.db"
    status = tune(
        "--data", file, "--sampler", "grid", "--lr", 1e30, 0.01, "--ways", "none",
        "--seeds", 2, "--epochs", 1, "--final-seeds", 2, "--workers", 1, "--study", path,
    )  # fmt: skip
    assert status == 0
    failed, good = trials_of(path, "none")
    assert failed.state.name == "FAIL"
    assert "the loss on unseen examples is nan" in failed.user_attrs["reason"]
    assert good.value is not None
    printed = capsys.readouterr().out
    assert "2, 1 failed" in printed
    assert "failed  lr 1e+30" in printed


def test_if_all_trials_diverge_the_search_fails(file, tmp_path, capsys):
    command = (
        "--data",
        file,
        *SMALL,
        "--lr",
        1e30,
        "--ways",
        "none",
        "--study",
        tmp_path / "study.db",
    )
    assert tune(*command) == 1
    assert "all its trials failed. Smaller learning rates may help" in capsys.readouterr().err


def test_other_options_are_refused(finished, file, capsys):
    path, _ = finished
    command = ("--data", file, *SMALL, "--study", path)
    assert tune(*command, "--epochs", 2, "--alpha", 0.1, 1) == 2
    told = capsys.readouterr().err
    assert f"{path} has a study with other options: epochs 1 there, 2 here" in told
    assert "space input alpha 0.05 4.0 there, 0.1 1.0 here" in told
    assert "or another file with --study" in told


def test_other_examples_are_refused(finished, file, tmp_path, task, capsys):
    path, _ = finished
    arrays = dict(np.load(file))
    arrays["x_train"][0] += 1
    (tmp_path / "new").mkdir()
    np.savez(tmp_path / "new" / "blobs.npz", **arrays)
    assert tune("--data", tmp_path / "new" / "blobs.npz", *SMALL, "--study", path) == 2
    assert "examples' digest" in capsys.readouterr().err


def test_two_processes_at_once_are_refused(file, tmp_path, capsys):
    path = tmp_path / "study.db"
    with FileLock(tmp_path / ".study.db.lock"):
        assert tune("--data", file, *SMALL, "--study", path) == 2
    assert f"another process is tuning with {path}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--trials", 0), "--trials is 0. Expected 1 or more."),
        (("--final-seeds", 0), "--final-seeds is 0. Expected 1 or more."),
        (("--validation", 1), "--validation is 1. Expected more than 0 and less than 1."),
        (("--validation", 0.001), "250 training examples holds out 0 and leaves 250"),
        (("--lr", 0, 1), "--lr has the value 0. Expected a finite number above 0."),
        (("--weight-decay", 0, 1), "--weight-decay has the value 0. Expected a finite number"),
        (("--lr", 1, 2, 3), "--lr has 3 values, but a range has two bounds"),
        (("--sampler", "grid", "--trials", 2), "--sampler grid tries every combination"),
        (
            ("--metric", "rmse"),
            "--metric is rmse, but blobs has classes to predict. Choose by error, nll, brier",
        ),
        (
            ("--data", "diabetes", "--metric", "error"),
            "--metric is error, but Diabetes has numbers to predict. Choose by rmse",
        ),
        (("--metric", "eror"), "no metric 'eror'. Did you mean 'error'? Known: error, nll, brier"),
        (("--ways", "manifolds"), "no kind of mixing 'manifolds'. Did you mean 'manifold'?"),
        (("--layers", "hiden1"), "'hiden1'"),
        (("--ways", "input", "--layers", "hidden1"), "no way mixes hidden states: none, input."),
        (("--ways", "none", "--alpha", 1), "--alpha was given, but no way mixes: none."),
        (("--optimizer", "sgd", "--lr", 0.1), "are for adamw. Give --lr and --weight-decay too."),
        (("--layers", "input"), "--mixing none, input, manifold"),
        (("--imbalance", 0.5), "--imbalance is 0.5. Expected 1 or more."),
        (("--imbalance", 1000), "leaves no example of class"),
        (("--data", "diabetes", "--imbalance", 3), "has no classes as labels. Leave it at 1."),
        (("--label-noise", 1), "--label-noise is 1.0. Expected 0 or more, and less"),
        (("--data", "diabetes", "--label-noise", 0.2), "has no classes as labels. Leave it at 0."),
        (("--bandwidth", 1), "--bandwidth was given, but no way has it: none, input, manifold."),
        (("--share", 0.5, 1), "--share has the value 1. Expected less than 1."),
        (("--share", 0.5), "Ways with it: patchup-soft, patchup-hard."),
        (("--ict-weight", 9), "--ict-weight was given, but no way has it: none, input, manifold."),
        (("--ema", 0.9, 1), "--ema has the value 1. Expected less than 1."),
        (("--ways", "ict"), "but all 200 of"),
        (("--gpus", -1), "--gpus is -1.0. Expected 0 or more."),
        (("--examples", 251), "251 training examples were requested"),
        (("--model", "preact-resnet18"), "preact-resnet18 takes images"),
    ],
)
def test_bad_input_is_refused_before_training(words, told, file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "train_all", None)
    assert tune("--data", file, "--study", tmp_path / "study.db", *words) == 2
    assert told in capsys.readouterr().err


def test_a_file_that_is_no_study_is_refused(file, tmp_path, capsys):
    (tmp_path / "study.db").write_text("something else")
    assert tune("--data", file, "--study", tmp_path / "study.db") == 2
    assert "study.db is not a study of Optuna" in capsys.readouterr().err
    assert (tmp_path / "study.db").read_text() == "something else"


def test_a_study_of_another_program_is_refused(file, tmp_path, capsys):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    optuna.create_study(storage=storage, study_name="mine")
    storage.engine.dispose()
    assert tune("--data", file, "--study", tmp_path / "study.db") == 2
    assert "a study 'mine' that manifold-mixup tune did not make" in capsys.readouterr().err


def test_without_optuna_the_extra_is_named(file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune("--data", file, "--study", tmp_path / "study.db") == 2
    assert "pip install 'manifold-mixup[tune]'" in capsys.readouterr().err


def test_every_way_of_the_catalog_can_be_named():
    from manifold_mixup.lab.commands.tune import Options

    assert Options().ways == tuple(catalog.MIXING)[:3]
    assert lab_runs.run("tune", "--ways", "list") == 0


@pytest.mark.usefixtures("few_signals")
def test_mnist_1d_is_validated_on_fresh_draws_only(monkeypatch, tmp_path):
    monkeypatch.setattr("manifold_mixup.lab.data.load", None)  # would load the published signals
    split = validation("mnist-1d", root=tmp_path).split.ready(range(3))
    seen = [split(seed) for seed in range(3)]
    assert len({float(data.x[0, 0]) for data in seen}) == 3
    assert all((len(data.x), len(data.x_test)) == (400, 400) for data in seen)
    assert not math.isnan(float(seen[0].x.sum()))
