"""The raw outputs that a run keeps are those of its weights, and stand in for the network."""

import json
from dataclasses import replace

import pytest
import torch

from manifold_mixup.lab.data import take_tested
from manifold_mixup.lab.evaluate import evaluate, logits
from manifold_mixup.lab.runs import evaluation as evaluations
from manifold_mixup.lab.runs import outputs
from manifold_mixup.lab.runs.evaluation import evaluated, trained
from manifold_mixup.lab.training.loop import train

OF_LOGITS = ["clean", "calibration", "selective"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def finished(task, plain, tmp_path_factory):
    """A run whose best epoch is not its last."""
    folder = tmp_path_factory.mktemp("run") / "one"
    result = train(replace(plain, epochs=12, lr=0.3), task, folder=folder)
    assert result.best_epoch < 12
    return folder


def test_they_are_the_logits_of_the_weights_of_both_epochs(task, finished):
    kept = outputs.read(finished)
    assert set(kept) == {"last", "best", "y_test"}
    assert torch.equal(kept["y_test"], task.y_test)
    for when in ("last", "best"):
        assert kept[when].dtype == torch.float32
        assert torch.equal(kept[when], logits(trained(finished, task, when), task.x_test))
    assert not torch.equal(kept["last"], kept["best"])


def test_one_set_is_kept_if_the_best_epoch_is_the_last(task, plain, tmp_path):
    result = train(replace(plain, epochs=1), task, folder=tmp_path)
    assert result.best_epoch == 1
    assert set(outputs.read(tmp_path)) == {"last", "y_test"}
    both = [outputs.for_test_set(tmp_path, when, task.y_test) for when in ("last", "best")]
    assert torch.equal(*both)


@pytest.mark.parametrize("when", ["last", "best"])
def test_evaluations_of_logits_need_no_network_and_find_the_same(task, finished, monkeypatch, when):
    by_network = evaluate(trained(finished, task, when), task, battery=OF_LOGITS)
    monkeypatch.setattr(evaluations, "trained", None)
    found = evaluated(finished, task, when, battery=OF_LOGITS)
    assert found == json.loads(json.dumps(by_network))


@pytest.mark.parametrize("changed", ["part", "examples", "file"])
def test_else_the_network_is_loaded(task, finished, monkeypatch, changed):
    monkeypatch.setattr(evaluations, "trained", lambda *_: pytest.fail("loaded"))
    given = {"battery": ["clean"], "tested": task}
    if changed == "part":
        given["battery"] = ["clean", "neighbours"]
    if changed == "examples":
        given["tested"] = take_tested(task, 79)
    if changed == "file":
        monkeypatch.setattr(outputs, "NAME", "logits-of-no-run.safetensors")
        given["tested"] = replace(task, name="without stored evaluations")
        monkeypatch.setattr(evaluations, "_FORMAT", -1)
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        evaluated(finished, task, "last", **given)


def test_a_damaged_file_or_other_targets_are_refused(task, finished, tmp_path):
    with pytest.raises(ValueError, match=r"another test set: its targets differ. Delete it"):
        outputs.for_test_set(finished, "last", task.y_test.flip(0))
    (tmp_path / outputs.NAME).write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"logits.safetensors is damaged .* Delete it"):
        outputs.read(tmp_path)


def test_a_regression_keeps_its_numbers(task, plain, tmp_path):
    y, y_test = task.x[:, 0] + task.x[:, 1], task.x_test[:, 0] + task.x_test[:, 1]
    numbers = replace(task, y=y, y_test=y_test, classes=0)
    train(replace(plain, loss="mse", epochs=1, lr=0.01), numbers, folder=tmp_path)
    kept = outputs.read(tmp_path)
    assert torch.equal(kept["y_test"], y_test)
    assert len(kept["last"]) == len(y_test)
    assert torch.equal(kept["last"], logits(trained(tmp_path, numbers), numbers.x_test))
