"""Evaluations of finished runs are computed once and stored."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab.data import take_tested
from manifold_mixup.lab.evaluate import Budget, Settings
from manifold_mixup.lab.report.gather import gather
from manifold_mixup.lab.runs import evaluation as evaluations
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs import weights
from manifold_mixup.lab.runs.evaluation import evaluated, trained
from manifold_mixup.lab.training.loop import train


@pytest.fixture
def folder(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "run")
    return tmp_path / "run"


def test_the_model_of_a_run_has_its_weights(task, folder):
    for when in ("last", "best"):
        model = trained(folder, task, when)
        assert not model.training
        kept = weights.read(folder / f"{when}.safetensors")
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_clean_numbers_are_those_of_the_run(task, folder):
    (row,) = evaluated(folder, task, "last", battery=["clean"])["clean"]
    last = run_folder.finished(folder).last
    assert (row["error"], row["nll"]) == (last.error, last.nll)


def test_what_was_found_is_read_again(task, folder, monkeypatch):
    first = evaluated(folder, task, "last", battery=["clean", "attacks"])
    monkeypatch.setattr(evaluations, "evaluate", None)
    assert evaluated(folder, task, "last", battery=["clean", "attacks"]) == first


def test_a_budget_counts_only_where_it_is_spent(task):
    asked = {
        (part, steps): evaluations._request([part], Settings(budget=Budget(steps=steps)), task)
        for part in ("clean", "apgd")
        for steps in (5, 100)
    }
    assert asked["clean", 5] == asked["clean", 100]
    assert (
        "budget" not in asked["clean", 5]["settings"]
    )  # as in evaluations that were stored before
    assert asked["apgd", 5] != asked["apgd", 100]


@pytest.mark.parametrize("other", ["battery", "settings", "unknown", "data", "when"])
def test_anything_else_is_found_anew(task, folder, other):
    evaluated(folder, task, "last", battery=["clean"])
    few = take_tested(task, 10)
    changed = {
        "battery": {"battery": ["attacks"]},
        "settings": {"settings": Settings(k=3)},
        "unknown": {"settings": Settings(unknown={"zeros": torch.zeros(4, 6)})},
        "data": {"tested": few},
        "when": {"when": "best"},
    }[other]
    evaluated(folder, task, **({"when": "last", "battery": ["clean"]} | changed))
    assert len(list(folder.glob("evaluation-*.json"))) == 2


def test_a_best_epoch_that_is_the_last_is_not_evaluated_once_more(task, plain, tmp_path):
    folder = tmp_path / "run"
    train(replace(plain, epochs=1), task, folder=folder)
    last, best = (evaluated(folder, task, when, battery=["clean"]) for when in ("last", "best"))
    assert best == last
    assert len(list(folder.glob("evaluation-*.json"))) == 1
    assert (folder / "last.safetensors").read_bytes() == (folder / "best.safetensors").read_bytes()


def test_the_file_says_what_was_asked(task, folder):
    evaluated(folder, task, "last", battery=["clean"], settings=Settings(seed=7))
    (path,) = folder.glob("evaluation-last-*.json")
    content = json.loads(path.read_text())
    assert content["asked"]["settings"]["seed"] == 7
    assert content["asked"]["battery"] == ["clean"]
    assert {"git", "machine", "versions"} <= content.keys()


def test_a_run_that_is_not_finished(task, plain, tmp_path):
    run_folder.claim(tmp_path / "run", replace(plain), task)
    with pytest.raises(FileNotFoundError, match=r"is not finished: it has no last.safetensors"):
        trained(tmp_path / "run", task)
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        trained(tmp_path, task)


def test_weights_of_another_model_are_named(task, plain, folder):
    train(replace(plain, width=8), task, folder=folder.parent / "narrow")
    shutil.copy(folder.parent / "narrow" / "last.safetensors", folder)
    with pytest.raises(ValueError, match=r"another model: \S+ is \(8.*\) there, and \(\d+"):
        trained(folder, task)
    kept = weights.read(folder / "best.safetensors")
    weights.write(folder / "best.safetensors", dict(list(kept.items())[1:]))
    with pytest.raises(ValueError, match=r"another model: \S+ is missing there"):
        trained(folder, task, "best")


def test_what_another_run_ended_in_is_not_taken_for_this_one(task, plain, folder):
    other = folder.parent / "other"
    train(replace(plain, seed=1), task, folder=other)
    shutil.copy(other / "logits.safetensors", folder)
    for when in ("last", "best"):
        with pytest.raises(ValueError, match=rf"not of this run: its NLL after the {when} epoch"):
            evaluated(folder, task, when, battery=["clean"])
    shutil.copy(other / "last.safetensors", folder)
    with pytest.raises(ValueError, match=r"last\.safetensors is not what this run ended in"):
        trained(folder, task)
    shutil.copy(other / "best.safetensors", folder)
    with pytest.raises(ValueError, match=r"best\.safetensors is not the best epoch of this run"):
        trained(folder, task, "best")


@pytest.mark.parametrize("result", ["", ', "result": {"run": {}}', ', "result": 3', ', "result"'])
def test_a_damaged_result_is_named(task, plain, tmp_path, result):
    run_folder.claim(tmp_path, plain, task)
    (tmp_path / "result.json").write_text(f'{{"format": 1{result}}}')
    for read in (
        lambda: run_folder.finished(tmp_path),
        lambda: run_folder.claim(tmp_path, plain, task),
        lambda: gather([tmp_path]),
    ):
        with pytest.raises(
            ValueError, match=r"result\.json is damaged \(.*\)\. Delete it, or give"
        ):
            read()


@pytest.mark.parametrize("content", ['{"format": 1}', '{"format": 1, "run": 3}', "{"])
def test_a_damaged_recipe_is_named(task, plain, tmp_path, content):
    (tmp_path / "recipe.json").write_text(content)
    for read in (
        lambda: run_folder.recipe(tmp_path),
        lambda: run_folder.claim(tmp_path, plain, task),
        lambda: run_folder.data_fingerprint(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"recipe\.json is damaged \(.*\)\. .*another folder"):
            read()


@pytest.mark.parametrize("content", ["null", "{}", '{"evaluation": {"data": "c"}}', "{"])
def test_a_damaged_evaluation_is_named_and_not_computed_over(task, folder, content):
    evaluated(folder, task, "last", battery=["clean"])
    (path,) = folder.glob("evaluation-last-*.json")
    path.write_text(content)
    with pytest.raises(ValueError, match=r"evaluation-last-.*\.json is damaged \(.*\)\. Delete it"):
        evaluated(folder, task, "last", battery=["clean"])


@pytest.mark.parametrize("content", ["[]", "{}", '{"evaluation": 3}', "{"])
def test_a_damaged_evaluation_is_named_by_a_report(folder, content):
    (folder / "evaluation-last-1.json").write_text(content)
    with pytest.raises(ValueError, match=r"evaluation-last-1\.json is damaged \(.*\)\. Delete it"):
        gather([folder])
