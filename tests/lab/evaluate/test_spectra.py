"""Spectra of hidden states, compared with numpy and closed forms, and their command."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lab_runs import run
from manifold_mixup.lab import cli
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.evaluate import Settings, evaluate, features
from manifold_mixup.lab.evaluate.spectra import (
    class_spectra,
    classifier_of,
    flatness,
    seen_share,
    variance_within,
    within_class,
)
from manifold_mixup.lab.models.fresh import fresh_model
from manifold_mixup.lab.report.spectra_table import spectra_table
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.training.loop import train


@pytest.fixture
def states():
    """Three classes far from the origin, each wide in one direction."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(300) % 3
    spread = torch.tensor([9.0, 1.0, 1.0, 1.0, 0.5])
    return torch.randn(300, 5, generator=generator) * spread + 10 + y[:, None], y


@pytest.mark.parametrize("centred", [True, False])
def test_the_spectra_are_those_of_numpy(states, centred):
    h, y = states
    ours = class_spectra(h, y, centred=centred)
    for label in range(3):
        own = h[y == label].double().numpy()
        values = np.linalg.svd(own - own.mean(0) if centred else own, compute_uv=False)
        np.testing.assert_allclose(ours[label].numpy(), values)


def test_the_numbers_of_a_spectrum():
    found = flatness(torch.tensor([[3.0, 1.0, 0.0], [4.0, 0.0, 0.0]]))
    assert (found.s1, found.rest) == (3.5, 0.5)
    assert found.s1_share == pytest.approx((75 + 100) / 2)
    assert found.outside == pytest.approx((10 + 0) / 2)


def test_states_on_a_line_are_flat():
    y = torch.arange(40) % 2
    line = torch.randn(40, 1) * torch.tensor([[1.0, -2.0, 3.0]]) + 7 * y[:, None]
    found = flatness(class_spectra(line, y, centred=True))
    assert found.outside == pytest.approx(0, abs=1e-9)
    assert found.s1_share == pytest.approx(100, abs=1e-4)


def test_of_centred_states_it_is_the_share_of_the_variance(states):
    h, y = states
    found = flatness(class_spectra(h, y, centred=True))
    outside = []
    for label in range(3):
        variance = np.linalg.eigvalsh(np.cov(h[y == label].double().numpy().T))
        outside.append(100 * variance[:-1].sum() / variance.sum())
    assert found.outside == pytest.approx(np.mean(outside))


def test_the_variance_within_classes_is_a_share_of_all(states):
    h, y = states
    within, second = variance_within(h, class_spectra(h, y, centred=True))
    rows = h.double().numpy()
    total = ((rows - rows.mean(0)) ** 2).sum()
    inside, along = 0.0, 0.0
    for label in range(3):
        own = rows[y == label] - rows[y == label].mean(0)
        inside += (own**2).sum()
        along += np.linalg.svd(own, compute_uv=False)[1] ** 2
    assert within == pytest.approx(100 * inside / total)
    assert second == pytest.approx(100 * along / total)


def test_a_class_with_too_few_examples_is_named():
    h, y = torch.randn(11, 6), torch.tensor([0] * 6 + [4] * 5)
    with pytest.raises(ValueError, match="class 4 has 5 examples, but the states have 6 dim"):
        class_spectra(h, y, centred=True)


def test_few_examples_have_the_spectrum_of_what_is_there():
    h, y = torch.randn(11, 6), torch.tensor([0] * 8 + [4] * 3)
    found = class_spectra(h, y, centred=True, complete=False)
    own = h[8:].double().numpy()
    values = np.linalg.svd(own - own.mean(0), compute_uv=False)
    np.testing.assert_allclose(found[1].numpy(), [*values, 0, 0, 0], atol=1e-12)
    full = class_spectra(h[:8], y[:8], centred=True)
    torch.testing.assert_close(found[:1], full)


def test_a_class_that_does_not_vary_has_no_flatness():
    spectra = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    assert flatness(spectra) == flatness(spectra[:1])
    assert np.isnan(flatness(spectra[1:]).outside)


def test_flatness_is_the_spectra_in_short(task, plain):
    model = fresh_model(replace(plain, width=8), task)
    settings = Settings(layers=("input", "hidden1", "hidden2"))
    found = evaluate(model, task, battery=["flatness", "spectra"], settings=settings)
    assert [row["name"] for row in found["flatness"]] == ["hidden1", "hidden2"]
    for short, long in zip(found["flatness"], found["spectra"][:2], strict=True):
        assert short["outside"] == pytest.approx(long["centred"]["outside"])
        assert short["within"] == pytest.approx(long["within"])
        assert short["s1_share"] == pytest.approx(long["uncentred"]["s1_share"])
        assert (short["fewest"], short["dimensions"]) == (26, 8)


def test_what_a_classifier_sees():
    """Its first two inputs separate the classes; a part common to all logits has no effect."""
    weight = torch.tensor([[1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, 5.0], [-1.0, -1.0, 0.0, 5.0]])
    y = torch.arange(30) % 3
    generator = torch.Generator().manual_seed(0)
    means = (
        100 * torch.randn(3, 4, generator=generator)[y]
    )  # variance between classes does not count
    noise = torch.randn(30, 4, generator=generator)
    seen, unseen = torch.tensor([1.0, 1, 0, 0]), torch.tensor([0, 0, 1.0, 1])
    assert seen_share(means + noise * seen, y, weight) == pytest.approx(100)
    assert seen_share(means + noise * unseen, y, weight) == pytest.approx(0, abs=1e-6)
    within = within_class(noise.double(), y)
    share = 100 * within[:, :2].square().sum() / within.square().sum()
    assert seen_share(means + noise, y, weight) == pytest.approx(share.item(), rel=1e-4)


def test_within_class_takes_the_means_off(states):
    h, y = states
    within = within_class(h.double(), y * 5)  # labels may have gaps
    for label in range(3):
        expected = h[y == label].double() - h[y == label].double().mean(0)
        torch.testing.assert_close(within[y == label], expected)


def test_the_classifier_is_the_last_linear_layer_to_run():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.body = nn.Linear(6, 4)

        def forward(self, x):
            return self.head(self.body(x))

    model = Odd().train()
    assert classifier_of(model, torch.randn(5, 6)) is model.head
    assert model.training
    assert not model.head._forward_hooks
    with pytest.raises(ValueError, match="Flatten has no linear layer that runs"):
        classifier_of(nn.Flatten(), torch.randn(5, 6))


def test_a_part_of_the_battery_on_request(task, plain):
    model = fresh_model(replace(plain, width=8), task)
    assert "spectra" not in evaluate(model, task)
    wanted = Settings(layers=("input", "hidden2"))
    result = evaluate(model, task, battery=["spectra"], settings=wanted)
    assert [row["name"] for row in result["spectra"]] == ["hidden2", "features"]
    hidden = features(model, task.x_test, layer="hidden2")
    expected = class_spectra(hidden, task.y_test, centred=False)
    assert result["spectra"][0]["uncentred"]["values"] == pytest.approx(expected.mean(0).tolist())
    named = evaluate(model, task, battery=["spectra"], settings=Settings(spectra=("hidden1",)))
    assert [row["name"] for row in named["spectra"]] == ["hidden1"]
    few = replace(task, x_test=task.x_test[:9], y_test=task.y_test[:9])
    with pytest.raises(ValueError, match="spectrum of 'hidden1': class 0 has 3 examples"):
        evaluate(model, few, battery=["spectra"], settings=Settings(spectra=("hidden1",)))
    last = features(model, task.x_test)
    assert result["spectra"][1]["seen"] == pytest.approx(
        seen_share(last, task.y_test, model.head.weight.detach())
    )


def _rows(values):
    """Return the rows of a layer by seed, with given shares."""
    numbers = {"s1": 1.0, "rest": 2.0, "s1_share": 33.0}
    return {
        seed: {
            "uncentred": numbers | {"outside": value},
            "centred": numbers | {"outside": 2 * value},
            "within": 3 * value,
        }
        for seed, value in values.items()
    }


MEANS = (15, 50**0.5), (56.5, 85 / 2**0.5)


def test_differences_are_of_the_seeds_that_both_methods_have():
    methods = {"no mixup": _rows({0: 10.0, 1: 20.0}), "mixed": _rows({1: 14.0, 2: 99.0})}
    page = spectra_table({"layer1": methods}, title="T")
    first, centred = page.split("centred in each class")
    for part, factors in ((first, (1,)), (centred, (2, 3))):
        lines = [line for line in part.splitlines() if line.startswith(("| no m", "| mixed"))]
        for factor in factors:
            plain, mixed = (f"{factor * mean:.1f} ± {factor * std:.1f}" for mean, std in MEANS)
            assert f"| {plain} |" in lines[0]  # the baseline has no differences
            assert f"| {mixed}<br>−{factor * 6:.1f} |" in lines[1]
        assert lines[1].count("<br>") == len(factors)
        assert lines[1].endswith(" | 2 |")
    assert "classifier" not in page  # there are no features


@pytest.fixture
def folders(task, plain, tmp_path):
    """Two methods with two seeds, trained on a file that the command can load."""
    arrays = {"x_train": task.x, "y_train": task.y, "x_test": task.x_test, "y_test": task.y_test}
    np.savez(tmp_path / "blobs.npz", **{name: value.numpy() for name, value in arrays.items()})
    found = []
    for method, layers in (("no mixup", ()), ("manifold mixup", ("hidden1", "hidden2"))):
        for seed in range(2):
            own = replace(plain, data=str(tmp_path / "blobs.npz"), width=8, method=method)
            one = replace(own, layers=layers, seed=seed)
            found.append(tmp_path / run_folder.folder_name(one))
            train(one, datasets.load(one.data, root=tmp_path), folder=found[-1])
    return found


def test_the_command_puts_methods_side_by_side(folders, tmp_path, capsys):
    assert run("analyze", "spectra", *folders, "--out", tmp_path / "out") == 0
    page = (tmp_path / "out" / "spectra.md").read_text()
    assert page.count("| no mixup |") == page.count("| manifold mixup |") == 6
    for layer in ("hidden1", "hidden2", "features"):
        assert f"**{layer}, centred in each class**" in page
    assert page.count("seen, %") == 1
    content = json.loads((tmp_path / "out" / "spectra.json").read_text())
    row = content["layers"]["hidden1"]["manifold mixup"]["1"]
    assert len(row["centred"]["values"]) == 8
    assert str(tmp_path) not in page
    assert (tmp_path / "out" / "spectra.png").read_bytes()[:4] == b"\x89PNG"
    assert "row space of the classifier" in " ".join(capsys.readouterr().out.split())


def test_bad_input_to_the_command(folders, plain, tmp_path, capsys, monkeypatch):
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other"
    monkeypatch.chdir(tmp_path)
    train_other = replace(run_folder.recipe(folders[0]), width=9)
    train(train_other, datasets.load(train_other.data, root=tmp_path), folder=other)
    cases = {
        (): "no folder was given",
        ("empty",): "is not the folder of a run",
        (folders[0], other): "has width 9, but the first run has 8",
        (folders[0], "--layers", "hiden1"): "Did you mean 'hidden1'",
    }
    for arguments, text in cases.items():
        assert run("analyze", "spectra", *arguments, "--out", tmp_path / "no") != 0
        assert text in capsys.readouterr().err
        assert not (tmp_path / "no" / "spectra.md").exists()


def test_an_unfinished_run_is_named(folders, tmp_path, capsys):
    (folders[1] / "last.safetensors").unlink()
    assert run("analyze", "spectra", *folders, "--out", tmp_path / "no") == cli.BAD_INPUT
    assert "is not finished" in capsys.readouterr().err
