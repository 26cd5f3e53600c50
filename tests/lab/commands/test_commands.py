"""train and evaluate from end to end: good input, bad input, resuming."""

import json
import os
import re
import signal

import numpy as np
import pytest
import torch

from lab_runs import run
from manifold_mixup.lab import cli
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.commands import train as command
from manifold_mixup.lab.data import mnist1d
from manifold_mixup.lab.data.shifted import CORRUPTIONS
from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.runs import weights


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")


def small(npz, *more) -> int:
    """Train a perceptron for three epochs."""
    options = ("--recipe", "compare", "--data", npz, "--model", "mlp", "--epochs", 3, "--width", 8)
    return run("train", *options, "--device", "cpu", *more)


# train


def test_a_run_end_to_end(npz, tmp_path, capsys):
    assert small(npz, "--out", tmp_path / "one") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "manifold mixup, α = 0.2 at input, hidden1, hidden2: mlp on blobs" in shown
    result = run_folder.finished(tmp_path / "one")
    assert f"error % {result.last.error:.2f} {result.best.error:.2f}" in shown
    assert {path.name for path in (tmp_path / "one").iterdir()} >= {
        "recipe.json",
        "metrics.jsonl",
        "result.json",
        "last.safetensors",
        "best.safetensors",
    }


def test_without_out_the_folder_is_named_after_the_recipe(npz, tmp_path):
    assert small(npz) == 0
    assert small(npz, "--mixing", "none") == 0
    folders = sorted((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    assert all(
        folder.name == run_folder.folder_name(run_folder.recipe(folder)) for folder in folders
    )


def test_options_change_the_recipe_and_nothing_else(npz, tmp_path):
    small(npz, "--out", tmp_path / "one", "--alpha", 0.7, "--layers", "hidden2", "--lr", 0.02)
    expected = catalog.recipe("compare", "manifold", str(npz), "mlp")
    found = run_folder.recipe(tmp_path / "one")
    assert (found.alpha, found.layers, found.lr) == (0.7, ("hidden2",), 0.02)
    assert (found.batch, found.weight_decay) == (expected.batch, expected.weight_decay)


def test_ctrl_c_leaves_a_run_and_says_how_to_go_on(npz, tmp_path, monkeypatch, capsys):
    assert small(npz, "--out", tmp_path / "whole") == 0
    pressed = []

    def press(self, run, done):
        if not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(command.Live, "step", press)
    arguments = ["train", "--data", "blobs with a space"]
    monkeypatch.setattr("sys.argv", ["manifold-mixup", *arguments])
    assert small(npz, "--out", tmp_path / "cut") == cli.INTERRUPTED
    shown = " ".join(capsys.readouterr().out.split())
    assert "was stopped in epoch 1. Resume with: manifold-mixup train --data 'blobs" in shown
    monkeypatch.undo()
    assert small(npz, "--out", tmp_path / "cut") == 0
    whole, cut = (run_folder.finished(tmp_path / name) for name in ("whole", "cut"))
    assert cut.weights == whole.weights


def test_a_folder_of_another_run_is_refused(npz, tmp_path, capsys):
    small(npz, "--out", tmp_path / "one")
    before = weights.read(tmp_path / "one" / "last.safetensors")
    assert small(npz, "--out", tmp_path / "one", "--lr", 0.5, "--seed", 3) != 0
    message = capsys.readouterr().err
    assert (
        "has a run with other settings: lr 0.001 there, 0.5 here; seed 0 there, 3 here" in message
    )
    after = weights.read(tmp_path / "one" / "last.safetensors")
    assert all(value.equal(after[name]) for name, value in before.items())


def test_a_diverging_run_fails(npz, capsys):
    assert small(npz, "--mixing", "none", "--lr", 1e18) == cli.FAILED
    assert "the loss is" in capsys.readouterr().err


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_bfloat16_where_the_processor_has_none_is_told(
    npz, capsys, monkeypatch, capability, precision
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert small(npz, "--precision", precision) == 0
    told = "Use --precision float32 for faster training." in capsys.readouterr().out
    assert told == (capability == "AVX2" and precision == "bf16")


BAD = {
    "a task without a fast recipe": (
        ("--recipe", "fast"),
        "the recipe fast was made for cnn on mnist-1d and factor-cnn on fashion-mnist, not for",
    ),
    "recipe": (("--recipe", "papr"), "no recipe 'papr'. Did you mean 'paper'? Known: modern"),
    "mixing": (("--mixing", "manfold"), "no kind of mixing 'manfold'. Did you mean 'manifold'?"),
    "data": (("--data", "cifar10"), "no data set 'cifar10'. Did you mean 'cifar-10'?"),
    "model": (("--model", "mpl"), "no model 'mpl'. Did you mean 'mlp'?"),
    "layer": (("--layers", "hiden1"), "Did you mean 'hidden1'"),
    "epochs": (("--epochs", 0), "epochs is 0. Expected 1 or more."),
    "lr": (("--lr", "nan"), "lr is nan. Expected a finite number above 0."),
    "dropout": (("--dropout", 1), "dropout is 1.0. Expected 0 or more, and less than 1."),
    "CUDA graphs of nothing": (("--cuda-graphs",), "cuda_graphs needs a compiled model: set"),
    "CUDA graphs on a CPU": (
        ("--compile", "--cuda-graphs", "--device", "cpu"),
        "cuda_graphs needs a GPU, but the device is 'cpu'.",
    ),
    "accumulate": (("--batch", 4, "--accumulate", 5), "a batch of 4 cannot be split into 5 parts."),
    "device": (("--device", "cuda:99"), "cannot use device 'cuda:99'"),
    "per_class": (("--per-class", 0), "per_class is 0. Expected 1 or more."),
    "weights": (
        ("--weights", "nowhere.pth"),
        "there are no weights at nowhere.pth. Give --weights",
    ),
    "every": (("--every", -1), "every is -1. Expected 0 or more."),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_of_train(npz, tmp_path, capsys, case):
    options, text = BAD[case]
    assert small(npz, *options) == cli.BAD_INPUT
    assert text in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_starts_from_the_weights_of_another(npz, tmp_path, capsys):
    assert small(npz, "--out", tmp_path / "first") == 0
    last = tmp_path / "first" / "last.safetensors"
    slow = ("--weights", last, "--lr", 1e-9, "--out", tmp_path / "second", "--every", 0)
    assert small(npz, *slow) == 0
    before, after = (weights.read(tmp_path / n / "last.safetensors") for n in ("first", "second"))
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-6)
    assert small(npz, "--weights", last, "--width", 7) == cli.BAD_INPUT
    assert "last.safetensors does not fit: " in capsys.readouterr().err


def test_an_unknown_field_names_the_nearest(npz, capsys):
    assert small(npz, "--epcohs", 3) == cli.BAD_INPUT
    assert "--epochs" in capsys.readouterr().err


def test_an_unwritable_folder(npz, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert small(npz, "--out", tmp_path / "file" / "run") == cli.BAD_INPUT
    assert "Choose another folder with --out" in capsys.readouterr().err


def test_recipes_differ_in_what_their_names_say():
    plain, mixed = (
        catalog.recipe("paper", m, "cifar-10", "wrn-28-10") for m in ("none", "manifold")
    )
    assert (plain.layers, mixed.layers, mixed.alpha) == ((), ("input", "layer1"), 2.0)
    assert (mixed.loss, mixed.epochs) == ("softmax_bce", 400)
    modern = catalog.recipe("modern", "input", "cifar-10", "preact-resnet18")
    assert (modern.loss, modern.precision, modern.crop) == ("cross_entropy", "bf16", 4)
    assert (modern.layers, modern.alpha) == (("input",), 1.0)
    assert catalog.recipe("modern", "none", "svhn", "preact-resnet18").flip is False
    assert catalog.recipe("modern", "none", "mnist-1d", "mlp").crop == 0


# evaluate


def test_everything_about_a_perceptron(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    small(npz, "--out", tmp_path / "one")
    capsys.readouterr()
    assert run("evaluate", tmp_path / "one") == 0
    shown = capsys.readouterr().out
    *lines, _ = shown.splitlines()  # without the paths of the written files
    assert max(map(len, lines)) <= 80, shown
    assert "PGD-20: ε = 0.1, 20 steps of 0.025 in" in " ".join(shown.split())
    assert "λ = 0.5" in shown
    for part in ("clean", "calibration", "selective", "attacks", "outliers", "neighbours"):
        assert part in shown
    assert "RMS gap, debiased, %" in shown
    assert "FGSM" in shown
    assert "Left out" not in shown
    assert "hidden2" in shown
    assert (tmp_path / "one" / "reliability-last.png").read_bytes()[:4] == b"\x89PNG"
    (path,) = (tmp_path / "one").glob("evaluation-last-*.json")
    assert "deformations" not in json.loads(path.read_text())["evaluation"]


def test_too_few_examples_for_a_test_are_said(npz, tmp_path, capsys):
    small(npz, "--out", tmp_path / "one")
    assert run("evaluate", tmp_path / "one", "--tested", 79) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Left out: a temperature is fitted on each half of the test examples" in shown
    assert "79 examples of" in shown
    assert "RMS gap" not in shown


def test_one_class_among_the_tested_examples_is_said(npz, tmp_path, capsys):
    small(npz, "--out", tmp_path / "one")
    assert run("evaluate", tmp_path / "one", "--tested", 1) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Left out: neural collapse is about several classes, but all 1 test examples" in shown


def test_images_are_deformed_and_told_from_other_sets(images, tmp_path, capsys):
    options = ("--mixing", "none", "--epochs", 1, "--width", 2, "--root", images, "--device", "cpu")
    assert run("train", *options, "--out", tmp_path / "one") == 0
    battery = ("--battery", "deformations", "outliers", "--unknown", "cifar-100")
    assert run("evaluate", tmp_path / "one", *battery, "--tested", 10, "--root", images) == 0
    shown = capsys.readouterr().out
    assert re.search(r"zoom out 180 %\s+shifted", shown)
    assert re.search(r"cifar-100\s+near", shown)
    y = datasets.load("cifar-10", root=images).y_test.numpy()
    np.save(tmp_path / "labels.npy", np.tile(y, 5))
    for kind in CORRUPTIONS:
        np.save(tmp_path / f"{kind}.npy", np.zeros((5 * len(y), 32, 32, 3), np.uint8))
    published = ("--battery", "clean", "--cifar-c", tmp_path, "--tested", 20)
    assert run("evaluate", tmp_path / "one", *published, "--root", images) == 0
    shown = capsys.readouterr().out  # all images are black, so every severity has the same error
    assert re.search(r"fog +(\S+)( +\1){5} +20\n(.*\n)+mCE +\1", shown)
    (tmp_path / "snow.npy").unlink()
    assert run("evaluate", tmp_path / "one", *published, "--root", images) == cli.BAD_INPUT
    assert "has no snow.npy. Unpack CIFAR-10-C.tar from" in capsys.readouterr().err


def test_bad_input_to_evaluate(npz, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mnist1d, "TRAIN", 200)  # in less time
    monkeypatch.setattr(mnist1d, "MORE", 200)
    small(npz, "--out", tmp_path / "one")
    capsys.readouterr()
    pixels = tmp_path / "pixels.npz"
    x, y = np.full((4, 6), 9, np.uint8), np.arange(4) % 2
    np.savez(pixels, x_train=x, y_train=y, x_test=x, y_test=y)
    cases = {
        (tmp_path,): "is not the folder of a run",
        (tmp_path / "one", "--battery", "cleen"): "no part 'cleen'. Did you mean 'clean'?",
        (tmp_path / "one", "--battery", "deformations"): "only images can be deformed",
        (
            tmp_path / "one",
            *("--battery", "calibration", "--tested", 79),
        ): "79 examples of blobs are tested: 80 are enough. Leave out 'calibration'.",
        (
            tmp_path / "one",
            "--unknown",
            "mnist-1d",
        ): "have shape (40,), but those of blobs have (6,)",
        (tmp_path / "one", "--unknown", pixels): "pixels has inputs from 0 to 1, but blobs has",
        (tmp_path / "one", "--tested", 0): "--tested is 0. Expected 1 or more.",
        (tmp_path / "one", "--attacked", 0): "--attacked is 0. Expected 1 or more.",
        (tmp_path / "one", "--restarts", 0): "restarts is 0. Expected 1 or more.",
        (tmp_path / "one", "--battery", "cifar-c"): "Give --cifar-c FOLDER.",
        (tmp_path / "one", "--cifar-10-1", tmp_path): "has the ten classes of CIFAR-10, but",
    }
    for arguments, text in cases.items():
        assert run("evaluate", *arguments) == cli.BAD_INPUT
        assert text in capsys.readouterr().err
