"""Hidden states measured during a training: what they are, and that they change nothing."""

import json
from dataclasses import replace

import pytest

from lab_runs import run as command
from manifold_mixup.lab import cli
from manifold_mixup.lab.data import take, take_tested
from manifold_mixup.lab.evaluate import Settings, evaluate
from manifold_mixup.lab.report.gather import gather
from manifold_mixup.lab.report.sections.by_epoch import states as section
from manifold_mixup.lab.runs import states_log
from manifold_mixup.lab.runs.evaluation import trained
from manifold_mixup.lab.training import states as measured
from manifold_mixup.lab.training.loop import Stopped, train
from manifold_mixup.lab.training.states import PARTS, States, check_states

pytestmark = pytest.mark.usefixtures("one_thread")

SECOND = States(2, ("hidden1",))


@pytest.fixture(scope="module")
def run(plain):
    return replace(plain, method="input mixup", layers=("input",), epochs=5, width=8)


def test_they_are_those_of_evaluate_and_training_is_the_same(task, run, tmp_path):
    plain = train(run, task, folder=tmp_path / "plain")
    watched = train(run, task, folder=tmp_path / "watched", states=SECOND)
    assert watched.weights == plain.weights
    assert states_log.read(tmp_path / "plain") == []
    rows = states_log.read(tmp_path / "watched")
    assert [row["epoch"] for row in rows] == [2, 4, 5]
    model = trained(tmp_path / "watched", task)
    found = evaluate(model, task, battery=PARTS, settings=Settings(layers=("hidden1",)))
    assert rows[-1] == {"epoch": 5} | json.loads(json.dumps({part: found[part] for part in PARTS}))
    assert rows[0] != rows[1]


def test_a_resumed_run_measures_each_epoch_once(task, run, tmp_path):
    train(run, task, folder=tmp_path / "whole", states=SECOND)
    steps = iter(range(1000))
    with pytest.raises(Stopped):
        train(
            run,
            task,
            folder=tmp_path / "stopped",
            states=SECOND,
            stop=lambda: next(steps) == 30,  # in the fourth epoch
        )
    # A process that was killed may have measured an epoch that it did not save.
    states_log.add(tmp_path / "stopped", 4, {part: [] for part in PARTS})
    train(run, task, folder=tmp_path / "stopped", states=SECOND)
    whole, stopped = (states_log.read(tmp_path / name) for name in ("whole", "stopped"))
    assert stopped == whole
    lines = (tmp_path / "stopped" / states_log.NAME).read_text().splitlines()
    assert len(lines) == 3


def test_large_sets_are_cut_to_the_same_examples(task, monkeypatch):
    monkeypatch.setattr(measured, "_EXAMPLES", 50)
    few = measured.few(task)
    assert few.x.equal(take(task, 50).x)
    assert few.x_test.equal(take_tested(task, 50).x_test)


def test_the_report_draws_them(task, run, tmp_path):
    for seed in range(2):
        own = replace(run, seed=seed)
        train(own, task, folder=tmp_path / str(seed), states=SECOND)
    train(replace(run, seed=2), task, folder=tmp_path / "2", states=States(3, ("hidden1",)))
    train(replace(run, seed=3), task, folder=tmp_path / "3")
    found = section({"input mixup": gather([tmp_path]).items})
    titles = [grid.caption for grid in found.numbers]
    assert titles == [
        "NC1, training set, at hidden1",
        "NC1, training set, at features",
        "NC2 of angles, training set, at hidden1",
        "NC2 of angles, training set, at features",
        "% outside the first direction, at hidden1",
        "% of the variance within classes, at hidden1",
    ]
    assert len(found.pictures) == len(titles)
    (last,) = dict(found.numbers[0].rows)["epoch 5"]
    values = [states_log.read(tmp_path / name)[-1]["collapse"][0]["nc1"] for name in ("0", "1")]
    assert last.text.startswith(f"{sum(values) / 2:.3f} ±")
    assert [label for label, _ in found.numbers[0].rows] == ["epoch 2", "epoch 4", "epoch 5"]
    assert section({"input mixup": gather([tmp_path / "3"]).items}) is None


def test_the_command_measures_the_eligible_layers(npz, tmp_path, capsys):
    options = ("--recipe", "compare", "--mixing", "none", "--data", npz, "--model", "mlp")
    small = (*options, "--epochs", 1, "--width", 8, "--device", "cpu", "--out", tmp_path / "one")
    assert command("train", *small, "--states-every", 0) == cli.BAD_INPUT
    assert "--states-every is 0. Expected 1 or more." in capsys.readouterr().err
    assert command("train", *small, "--states-every", 3) == 0
    (row,) = states_log.read(tmp_path / "one")
    assert [one["name"] for one in row["flatness"]] == ["hidden1", "hidden2"]
    assert [one["name"] for one in row["collapse"]][-1] == "features, test"


def test_runs_whose_states_cannot_be_measured_are_refused(plain, monkeypatch):
    for other, says in (
        (replace(plain, loss="mse"), "a run of numbers has no classes"),
        (replace(plain, compile=True), "the states of a compiled model are not seen"),
    ):
        with pytest.raises(ValueError, match=says):
            check_states(other, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes train this run"):
        check_states(plain, 1)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / states_log.NAME).write_text("{")
    with pytest.raises(ValueError, match=r"states.jsonl is damaged .* Delete it"):
        states_log.read(tmp_path)
