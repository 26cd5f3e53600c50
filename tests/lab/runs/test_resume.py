"""A run that is stopped or killed anywhere ends with the same bits as an uninterrupted one."""

import functools
import json
import os
import random
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import processes
import resume_worker
from lab_runs import without_time
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import checkpoint, weights
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.training.loop import Stopped, train

pytestmark = pytest.mark.usefixtures("one_thread")


def stop_after(steps):
    """Return a function that stops a training after a number of steps."""
    left = iter(range(steps))
    return lambda: next(left, None) is None


VARIANTS = {
    "no mixup": {},
    "manifold mixup": {"layers": ("input", "hidden1"), "per_sample": True},
    "sgd, averaged": {"optimizer": "sgd", "schedule": "cosine", "ema": 0.8},
    "in two parts": {"accumulate": 2, "layers": ("hidden1",), "block_gradient": True},
    "held-out examples": {"validation": 0.2},
    "bfloat16": {"precision": "bf16", "layers": ("input", "hidden2")},
    "compiled": {"compile": True, "layers": ("hidden2",)},
    "compiled by the default backend": {"compile": True, "layers": ("hidden2",)},
    "other class": {"pairs": "other_class", "layers": ("input", "hidden2"), "dropout": 0.2},
    "adversarial": {"pgd_steps": 2, "layers": ("hidden1",), "batch_norm": True},
    "remix": {"label": "remix", "layers": ("input",), "p": 0.5},
    "regmixup": {"clean": True, "layers": ("input", "hidden1"), "dropout": 0.2},
}
# An epoch has three steps. Four are within the second, where all that is saved has changed.
STOPS = {"no mixup": (0, 1, 2, 3, 4), "manifold mixup": (0, 1, 2, 3, 4)}
STOPS |= {"compiled": (3,), "compiled by the default backend": (3,)}
THOROUGH = pytest.mark.thorough


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(
    ("variant", "stops"),
    [
        *(
            pytest.param(variant, STOPS.get(variant, (4,)), marks=THOROUGH if slow else ())
            for variant in VARIANTS
            for slow in [variant.endswith("default backend")]
        ),
        *(
            pytest.param(variant, (0, 1, 2, 3), marks=THOROUGH)
            for variant in VARIANTS
            if variant not in STOPS
        ),
    ],
)
def test_stopped_after_any_step_it_ends_in_the_same_bits(
    task, plain, tmp_path, monkeypatch, variant, stops
):
    if variant == "compiled":
        quick = functools.partialmethod(nn.Module.compile, backend="aot_eager")
        monkeypatch.setattr(nn.Module, "compile", quick)
    run = replace(plain, epochs=2, batch=90, **VARIANTS[variant])
    whole = train(run, task)
    for steps in stops:
        folder = tmp_path / str(steps)
        with pytest.raises(Stopped, match=r"was stopped in epoch \d"):
            train(run, task, folder=folder, stop=stop_after(steps))
        assert (folder / checkpoint.LATEST).exists()
        assert without_time(train(run, task, folder=folder)) == without_time(whole)


def test_stopped_again_and_again(task, runs, tmp_path):
    run = replace(runs[2], epochs=3)
    whole, count = train(run, task), 0
    while True:
        try:
            result = train(run, task, folder=tmp_path, stop=stop_after(2))
        except Stopped:
            count += 1
        else:
            break
    assert count > 5
    assert without_time(result) == without_time(whole)


@pytest.mark.parametrize(
    "more",
    [{"optimizer": "sgd"}, {"optimizer": "adamw", "ema": 0.8}, {"optimizer": "sgd", "ema": 0.8}],
    ids=lambda more: ", ".join(map(str, more.values())),
)
def test_stopped_with_images_in_channels_last_order_it_ends_in_the_same_bits(more, tmp_path):
    """As the recipe ``modern`` has it; files keep tensors in another order."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8)
    y = torch.arange(40) % 3
    images = Data("images", x[:30], y[:30], x[30:], y[30:], classes=3, eps=0.0, space="")
    run = Recipe(
        data="images", model="preact-resnet18", width=4, epochs=3, batch=10, lr=0.1,
        weight_decay=0.01, layers=("input", "layer1"), channels_last=True, **more,
    )  # fmt: skip
    whole = train(run, images)
    with pytest.raises(Stopped):
        train(run, images, folder=tmp_path, stop=stop_after(4))
    assert train(run, images, folder=tmp_path).weights == whole.weights


def test_two_trainings_never_share_a_folder(task, plain, tmp_path, monkeypatch):
    monkeypatch.setattr("manifold_mixup.lab.runs.folder._PATIENCE", 0.1)

    def train_the_same(_):
        with pytest.raises(BlockingIOError, match="another process is training the run in "):
            train(plain, task, folder=tmp_path / "a")
        train(plain, task, folder=tmp_path / "b")

    train(plain, task, folder=tmp_path / "a", on_epoch=train_the_same)
    assert without_time(train(plain, task, folder=tmp_path / "a")) == without_time(
        train(plain, task)
    )


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_in_the_same_bits(task, runs, tmp_path):
    arrays = {"x_train": task.x, "y_train": task.y, "x_test": task.x_test, "y_test": task.y_test}
    file = tmp_path / "blobs.npz"
    np.savez(file, **{name: tensor.numpy() for name, tensor in arrays.items()})
    run = replace(runs[2], data=str(file), epochs=4)

    def start(folder, *, steps=0, writes=0):
        counts = {"steps": steps, "writes": writes}
        own = {"target": resume_worker.main, "args": (run, tmp_path / folder), "kwargs": counts}
        started = processes.context().Process(**own)
        started.start()
        started.join()
        return started.exitcode

    assert start("whole") == 0
    chance = random.Random(0)
    for _ in range(2):
        at_step, in_write = chance.randint(1, 12), chance.randint(2, 8)
        assert start("killed", steps=at_step) == -signal.SIGKILL
        assert start("killed", writes=in_write) == -signal.SIGKILL
    assert start("killed") == 0
    whole, killed = (runs_finished(tmp_path / name) for name in ("whole", "killed"))
    assert without_time(killed) == without_time(whole)
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def runs_finished(folder):
    result = run_folder.finished(folder)
    assert result is not None
    return result


def interrupted(run, task, folder, *stops):
    for steps in stops:
        with pytest.raises(Stopped):
            train(run, task, folder=folder, stop=stop_after(steps))


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign", "another run's"])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(task, plain, tmp_path, damage):
    whole = train(plain, task)
    interrupted(plain, task, tmp_path, 3, 2)
    latest = tmp_path / checkpoint.LATEST
    content = latest.read_bytes()
    if damage == "foreign":
        weights.write(latest, {"a": torch.zeros(3)})
    elif damage == "another run's":
        checkpoint.save(tmp_path / "..", checkpoint.State(), run="other")
        (tmp_path / ".." / checkpoint.LATEST).replace(latest)
    else:
        latest.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
    says = {"foreign": "not a checkpoint of this program", "another run's": "of another run"}
    with pytest.warns(UserWarning, match=says.get(damage, "is damaged")):
        again = train(plain, task, folder=tmp_path)
    assert without_time(again) == without_time(whole)


def test_without_a_good_checkpoint_it_begins_anew(task, plain, tmp_path):
    interrupted(plain, task, tmp_path, 3)
    (tmp_path / checkpoint.LATEST).write_bytes(b"\x80\x04")  # the first bytes of a pickle
    with pytest.warns(UserWarning, match="is damaged"):
        again = train(plain, task, folder=tmp_path)
    assert without_time(again) == without_time(train(plain, task))


def test_a_finished_run_is_read_and_not_trained_again(task, plain, tmp_path):
    first = train(plain, task, folder=tmp_path)
    seen = []
    assert train(plain, task, folder=tmp_path, on_epoch=seen.append) == first
    assert seen == []
    assert not (tmp_path / checkpoint.LATEST).exists()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    assert run_folder.recipe(tmp_path) == plain
    assert weights.fingerprint(weights.read(tmp_path / "last.safetensors")) == first.weights
    assert weights.fingerprint(weights.read(tmp_path / "best.safetensors")) == first.best_weights


def test_other_settings_are_refused_and_named(task, plain, tmp_path):
    interrupted(plain, task, tmp_path, 3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    other = replace(plain, lr=0.5, layers=("input",))
    with pytest.raises(
        ValueError, match=r"layers \[\] there, \['input'\] here; lr 0.05 there, 0.5 here"
    ):
        train(other, task, folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"other data of the same name, 'blobs': the arrays differ"
    ):
        train(plain, replace(task, x=task.x + 1), folder=tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_full_disk_ends_the_run_and_leaves_the_checkpoint_before(
    task, plain, tmp_path, monkeypatch
):
    interrupted(plain, task, tmp_path, 3)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            train(plain, task, folder=tmp_path, save_every=0)
    assert without_time(train(plain, task, folder=tmp_path)) == without_time(train(plain, task))
