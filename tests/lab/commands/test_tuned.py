"""`compare --tuned`: each method with the settings that a search chose."""

import functools
import json
import shlex
import sqlite3

import optuna
import pytest

import lab_runs
from manifold_mixup.lab.commands.compare import Options, prepare
from manifold_mixup.lab.data.validation import validation
from manifold_mixup.lab.launch import processes

tune = functools.partial(lab_runs.run, "tune")
compare = functools.partial(lab_runs.run, "compare")

SMALL = (
    *("--epochs", 1, "--seeds", 1, "--final-seeds", 1, "--workers", 1),
    *("--sampler", "random", "--no-test"),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory, file):
    path = tmp_path_factory.mktemp("tuned") / "study.db"
    words = ("--ways", "manifold", "remix", "--imbalance", 3, "--trials", 3)
    assert tune("--data", file, *SMALL, *words, "--study", path) == 0
    return path


def best_of(path, way):
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    found = optuna.load_study(study_name=way, storage=storage).best_trial.params
    storage.engine.dispose()
    return found


def prepared(file, study, out, **options):
    return prepare(Options(data=str(file), tuned=study, seeds=1, out=out, **options))


def test_each_method_has_the_settings_of_its_best_trial(file, study, tmp_path):
    comparison = prepared(file, study, tmp_path)
    assert comparison.methods == ["no mixup", "manifold mixup", "Remix"]
    for run, way in zip(comparison.runs, ("none", "manifold", "remix"), strict=True):
        best = best_of(study, way)
        assert (run.lr, run.weight_decay) == (best["lr"], best["weight_decay"])
        assert (run.epochs, run.imbalance, run.seed) == (1, 3, 0)
        if way != "none":
            assert (run.alpha, "+".join(run.layers)) == (best["alpha"], best["layers"])
    told = "the best of 3 trials of each method by error % on validation examples, mean of 1 seed."
    assert told in comparison.caption
    assert len({run.weight_decay for run in comparison.runs}) > 1
    for run in comparison.runs:
        assert f"learning rate {run.lr:g}, weight decay {run.weight_decay:g}" in comparison.caption


def test_methods_and_sizes_can_be_chosen(file, study, tmp_path):
    options = {"epochs": 2, "imbalance": 1.0, "examples": 100}
    comparison = prepared(file, study, tmp_path, methods=("remix", "none"), **options)
    assert comparison.methods == ["no mixup", "Remix"]
    assert {(run.epochs, run.imbalance) for run in comparison.runs} == {(2, 1)}
    assert len(comparison.data.x) == 100


def test_end_to_end(file, study, tmp_path, capsys):
    words = ("--tuned", study, "--seeds", 2, "--workers", 1, "--no-spirals", "--out", tmp_path)
    assert compare("--data", file, *words) == 0
    assert "the best of 3 trials" in " ".join(capsys.readouterr().out.split())
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [one["run"]["lr"] for one in runs] == 2 * [
        best_of(study, way)["lr"] for way in ("none", "manifold", "remix")
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--lr", 0.1), "--lr was given, but --tuned chooses it."),
        (("--weight-decay", 0.1), "--weight-decay was given, but --tuned chooses it."),
        (("--model", "cnn"), "is a search with mlp on blobs.npz, but --data is blobs.npz and "),
        (("--methods", "none", "input"), "has no trials of input, only of none, manifold, remix."),
        (("--methods",), "--methods names no method."),
        (("--tuned", "nowhere.db"), "there is no study nowhere.db. manifold-mixup tune makes one."),
    ],
)
def test_what_does_not_fit_is_refused(words, told, file, study, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(processes, "train_all", None)
    assert compare("--data", file, "--tuned", study, "--out", tmp_path, *words) == 2
    assert told in capsys.readouterr().err


def test_a_study_of_another_program_is_refused(file, tmp_path, capsys):
    path = tmp_path / "study.db"
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    optuna.create_study(storage=storage, study_name="mine")
    storage.engine.dispose()
    assert compare("--data", file, "--tuned", path, "--out", tmp_path) == 2
    assert "has no study that manifold-mixup tune made" in capsys.readouterr().err


def test_a_search_that_is_not_finished_is_refused(file, study, tmp_path, capsys):
    path = tmp_path / "study.db"
    path.write_bytes(study.read_bytes())
    with sqlite3.connect(path) as database:
        (last,) = database.execute(
            "SELECT MAX(trial_id) FROM trials JOIN studies USING (study_id) "
            "WHERE study_name = 'remix'"
        ).fetchone()
        database.execute("DELETE FROM trials WHERE trial_id = ?", (last,))
    database.close()
    assert compare("--data", file, "--tuned", path, "--out", tmp_path) == 2
    assert "is not finished: it has 2 of 3 trials of remix" in capsys.readouterr().err


def test_a_method_whose_trials_all_failed_is_refused(file, tmp_path, capsys):
    path = tmp_path / "study.db"
    words = ("--data", file, "--sampler", "grid", "--ways", "none", "--lr", 1e30)
    words += ("--epochs", 1, "--seeds", 1, "--final-seeds", 1, "--workers", 1)
    assert tune(*words, "--no-test", "--study", path) == 1
    capsys.readouterr()
    assert compare("--data", file, "--tuned", path, "--out", tmp_path) == 2
    assert "all trials of none in" in capsys.readouterr().err


def test_the_tail_is_long_in_training_alone(file, task, tmp_path):
    found = validation(str(file), root=tmp_path, share=0.4, imbalance=3)
    plain = validation(str(file), root=tmp_path, share=0.4)
    for seed in (0, 1):
        tailed, whole = found.split(seed), plain.split(seed)
        assert tailed.x_test.equal(whole.x_test)
        counts = tailed.y.bincount(minlength=task.classes).tolist()
        assert counts == sorted(counts, reverse=True)
        assert 2.5 < counts[0] / counts[-1] < 3.5
        rows = {tuple(row) for row in whole.x.tolist()}
        assert all(tuple(row) in rows for row in tailed.x.tolist())
    assert "1:3" in found.about


def test_the_look_has_the_same_tail(file, tmp_path, capsys, one_thread):
    words = ("--ways", "none", "--trials", 1, "--imbalance", 3, "--study", tmp_path / "study.db")
    assert tune("--data", file, *SMALL[:-1], *words) == 0
    shown = capsys.readouterr().out
    (line,) = (text for text in shown.splitlines() if text.startswith("  manifold-mixup train"))
    _, *command = shlex.split(line)
    assert lab_runs.run(*command, "--out", tmp_path / "run") == 0
    trained = json.loads((tmp_path / "run" / "result.json").read_text())["result"]
    assert f"seed 0, whose test error is {trained['last']['error']:.2f} %" in shown
