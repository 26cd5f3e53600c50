"""One run in two processes, started as the documentation says, with ``accelerate launch``."""

import functools
import json
import os
import signal
import socket
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

from manifold_mixup.lab import cli, job, runs, weights

pytestmark = pytest.mark.slow
# Without a GPU, --multi_gpu is what starts several processes; they then find no GPU and use gloo.
LAUNCH = ("--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


LONG = ("--epochs", "7", "--batch", "4", "--save-every", "1")


@pytest.fixture(scope="module")
def options(tmp_path_factory, task):
    arrays = {"x_train": task.x, "y_train": task.y, "x_test": task.x_test, "y_test": task.y_test}
    data = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(data, **{key: value.numpy() for key, value in arrays.items()})
    given = {"recipe": "compare", "data": data, "model": "mlp", "width": 8}
    return [str(part) for key, value in given.items() for part in (f"--{key}", value)]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """A run that nothing stopped, by the name of what started it; trained when it is asked for."""

    @functools.cache
    def folder(start):
        out = tmp_path_factory.mktemp("whole")
        shown = output_of(start(*options, *LONG, "--out", out))
        assert "were not checked" not in shown
        return out

    return folder


def launch(*arguments, program=("-m", "manifold_mixup.lab")):
    with socket.socket() as one:  # a port that nobody has
        one.bind(("localhost", 0))
        port = str(one.getsockname()[1])
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *LAUNCH]
    command += ["--num_processes", "2", "--main_process_port", port]
    command += [*program, "train", "--device", "cpu", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def launch_sharded(*arguments):
    return launch(*arguments, program=(str(Path(__file__).with_name("fsdp_worker.py")),))


def output_of(process):
    """Wait for the end; return what was printed."""
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0, shown
    return shown


@pytest.mark.parametrize("start", [launch, launch_sharded], ids=["ddp", "fsdp2"])
def test_two_processes_train_what_one_does(options, tmp_path, start):
    """Without mixing: each process mixes its own part of a batch, by plans of its own."""
    options = [*options, "--mixing", "none", "--epochs", "3"]
    shown = output_of(start(*options, "--out", tmp_path / "two"))
    assert shown.count("Kept in") == 1
    assert json.loads((tmp_path / "two" / "recipe.json").read_text())["processes"] == 2
    with pytest.raises(SystemExit):
        cli.main(["train", *options, "--device", "cpu", "--out", str(tmp_path / "one")])
    one, two = (weights.read(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)
    one, two = (runs.finished(tmp_path / name) for name in ("one", "two"))
    for ours, theirs in zip(two.curve, one.curve, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)


@pytest.mark.parametrize("start", [launch, launch_sharded], ids=["ddp", "fsdp2"])
def test_killed_in_two_processes_it_ends_in_the_same_bits(options, whole, tmp_path, start):
    options = [*options, *LONG, "--out", str(tmp_path)]
    cut = start(*options)
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 2:
        assert cut.poll() is None
        time.sleep(0.01)
    cut.send_signal(signal.SIGTERM)  # which the launcher hands on
    cut.communicate(timeout=60)
    assert runs.finished(tmp_path) is None
    output_of(start(*options))
    whole_result, cut_result = runs.finished(whole(start)), runs.finished(tmp_path)
    assert cut_result.weights == whole_result.weights
    assert cut_result.curve == whole_result.curve


def test_another_number_of_processes_is_refused(options, whole, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", *options, *LONG, "--out", str(whole(launch)), "--device", "cpu"])
    assert "2 processes there, 1 here" in capsys.readouterr().err


def test_sharded_plans_are_those_of_whole_models(whole):
    """Every rank mixes as it does in DDP, so that they differ by rounding, until it has grown."""
    ddp, fsdp2 = (runs.finished(whole(start)).curve[:2] for start in (launch, launch_sharded))
    for ours, theirs in zip(fsdp2, ddp, strict=True):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "fsdp2", "ema", "told"),
    [
        ("FSDP", False, 0.0, "--fsdp_version 2"),
        ("FSDP", True, 0.9, "sharded weights are not averaged"),
        ("DEEPSPEED", False, 0.0, "cannot be trained with DEEPSPEED"),
    ],
)
def test_what_cannot_be_kept_is_refused(plain, task, monkeypatch, kind, fsdp2, ema, told):
    state = SimpleNamespace(distributed_type=DistributedType[kind], is_fsdp2=fsdp2)
    monkeypatch.setattr(job, "Accelerator", lambda **_: state)
    with pytest.raises(ValueError, match=told):
        job.Job(replace(plain, ema=ema), task)
