"""A run in two processes."""

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType

import launch_worker
import processes
from manifold_mixup.lab import cli
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs import weights
from manifold_mixup.lab.training import job

pytestmark = pytest.mark.slow
# --multi_gpu starts several processes even without a GPU; they then use gloo.
LAUNCH = ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")
LONG = ("--epochs", "4", "--batch", "8", "--save-every", "1")


@pytest.fixture(scope="module")
def options(tmp_path_factory, task):
    arrays = {"x_train": task.x, "y_train": task.y, "x_test": task.x_test, "y_test": task.y_test}
    data = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(data, **{key: value.numpy() for key, value in arrays.items()})
    given = {"recipe": "compare", "data": data, "model": "mlp", "width": 8}
    return [str(part) for key, value in given.items() for part in (f"--{key}", value)]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """An uninterrupted run for each way to distribute the model, trained on demand."""

    @functools.cache
    def folder(kept):
        out = tmp_path_factory.mktemp("whole")
        shown = Two(kept, *options, *LONG, "--out", out).output()
        assert "were not checked" not in shown
        return out

    return folder


class Two:
    """Two processes that train a run together, started like ``accelerate launch`` does."""

    def __init__(self, kept, *arguments):
        out = Path(arguments[-1])
        self.shown = [out.with_suffix(f".{rank}") for rank in range(2)]
        context, port = processes.context(), processes.free_port()
        train = ["train", "--device", "cpu", *map(str, arguments)]
        self.ranks = [
            context.Process(
                target=launch_worker.main,
                args=(rank, port, train, shown),
                kwargs={"sharded": kept == "fsdp2"},
                daemon=True,
            )
            for rank, shown in enumerate(self.shown)
        ]
        for rank in self.ranks:
            rank.start()

    def running(self):
        return all(rank.is_alive() for rank in self.ranks)

    def stop(self):
        for rank in self.ranks:
            rank.terminate()  # the signal that a launcher passes on
            rank.join(60)

    def output(self):
        """Wait for the end; return the output."""
        for rank in self.ranks:
            rank.join(300)
        shown = "".join(file.read_text() for file in self.shown)
        assert [rank.exitcode for rank in self.ranks] == [0, 0], shown
        return shown


def launched(*arguments):
    """Start it with ``accelerate launch`` itself, as in the documentation."""
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *LAUNCH]
    command += ["--num_processes", "2", "--main_process_port", processes.free_port()]
    command += ["-m", "manifold_mixup.lab", "train", "--device", "cpu", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, env=environment, timeout=300, check=False, **pipes)
    assert done.returncode == 0, done.stdout
    return done.stdout


def whole_models(*arguments):
    return Two("ddp", *arguments).output()


def sharded(*arguments):
    return Two("fsdp2", *arguments).output()


@pytest.mark.parametrize(
    "start", [whole_models, sharded, pytest.param(launched, marks=pytest.mark.thorough)]
)
def test_two_processes_train_what_one_does(options, tmp_path, start):
    """This holds without mixing, since each process mixes its own part of a batch."""
    options = [*options, "--mixing", "none", "--epochs", "3"]
    shown = start(*options, "--out", tmp_path / "two")
    assert shown.count("Saved in") == 1
    assert json.loads((tmp_path / "two" / "recipe.json").read_text())["processes"] == 2
    with pytest.raises(SystemExit):
        cli.main(["train", *options, "--device", "cpu", "--out", str(tmp_path / "one")])
    one, two = (weights.read(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    one, two = (run_folder.finished(tmp_path / name) for name in ("one", "two"))
    for ours, theirs in zip(two.curve, one.curve, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)


@pytest.mark.parametrize("kept", [pytest.param("ddp", marks=pytest.mark.thorough), "fsdp2"])
def test_killed_in_two_processes_it_ends_in_the_same_bits(options, whole, tmp_path, kept):
    options = [*options, *LONG, "--out", tmp_path]
    cut = Two(kept, *options)
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        assert cut.running()
        time.sleep(0.01)
    cut.stop()
    assert run_folder.finished(tmp_path) is None
    Two(kept, *options).output()
    whole_result, cut_result = run_folder.finished(whole(kept)), run_folder.finished(tmp_path)
    assert cut_result.weights == whole_result.weights
    assert cut_result.curve == whole_result.curve


def test_another_number_of_processes_is_refused(options, whole, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", *options, *LONG, "--out", str(whole("ddp")), "--device", "cpu"])
    assert "2 processes there, 1 here" in capsys.readouterr().err


def test_sharded_plans_are_those_of_whole_models(whole):
    """Every rank mixes as in DDP, so early losses differ only by rounding."""
    ddp, fsdp2 = (run_folder.finished(whole(kept)).curve[:2] for kept in ("ddp", "fsdp2"))
    for ours, theirs in zip(fsdp2, ddp, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "fsdp2", "ema", "told"),
    [
        ("FSDP", False, 0.0, "--fsdp_version 2"),
        ("FSDP", True, 0.9, "sharded weights cannot be averaged"),
        ("DEEPSPEED", False, 0.0, "DEEPSPEED is not supported"),
    ],
)
def test_what_cannot_be_kept_is_refused(plain, task, monkeypatch, kind, fsdp2, ema, told):
    state = SimpleNamespace(distributed_type=DistributedType[kind], is_fsdp2=fsdp2)
    monkeypatch.setattr(job, "Accelerator", lambda **_: state)
    with pytest.raises(ValueError, match=told):
        job.Job(replace(plain, ema=ema), task)
