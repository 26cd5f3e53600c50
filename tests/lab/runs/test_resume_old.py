"""A run that an older version wrote and left half way is resumed, and ends as it would have there.

``run_of_d444862/stopped`` was written by commit d444862, before the lab was divided into rooms,
and stopped in its second epoch; ``finished`` is what that commit made of it when it resumed it.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs import checkpoint
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.training.loop import Stopped, train

OLD = Path(__file__).with_name("run_of_d444862")
STEPS = 7  # after which it was stopped
RUN = Recipe(
    data="steps", method="manifold mixup", layers=("input", "hidden1"), per_sample=True, ema=0.75,
    optimizer="sgd", schedule="cosine", validation=0.2, epochs=4, batch=32, lr=0.5, width=8,
)  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def steps() -> Data:
    """Sixteenths, which every processor computes alike."""
    k = torch.arange(240)
    x = (k[:, None] * torch.tensor([7, 11, 13, 17, 19, 23]) % 32) / 16 - 1
    x = x + (k % 3)[:, None] * torch.tensor([0.5, 0, 0.5, 0, 0, 0.25])
    y = k % 3
    return Data("steps", x[:180], y[:180], x[180:], y[180:], classes=3, eps=0.125, space="units")


def resume(folder, data):
    """Resume the run in a folder, and return the epochs that were trained now."""
    epochs = []
    train(RUN, data, folder=folder, on_epoch=lambda epoch: epochs.append(epoch.epoch))
    return epochs


def stop(folder, data):
    left = iter(range(STEPS))
    with pytest.raises(Stopped, match="was stopped in epoch 2"):
        train(RUN, data, folder=folder, stop=lambda: next(left, None) is None)


def test_it_ends_as_where_it_was_written(steps, tmp_path):
    folder = shutil.copytree(OLD / "stopped", tmp_path / "run")
    assert resume(folder, steps) == [2, 3, 4]
    stopped = load_file(OLD / "stopped" / checkpoint.LATEST)
    expected = load_file(OLD / "finished" / "last.safetensors")
    found = load_file(folder / "last.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
        if "standardize" not in name:  # the rest of the training shows in every weight
            assert (stopped[f"average/{name}"] - value).abs().max() > 0.03


def test_it_ends_in_the_bits_of_a_run_that_this_version_wrote(steps, tmp_path):
    old = shutil.copytree(OLD / "stopped", tmp_path / "old")
    new = tmp_path / "new"
    stop(new, steps)
    fingerprint = run_folder.fingerprint(RUN, steps)
    state = checkpoint.read(old / checkpoint.LATEST, run=fingerprint)
    checkpoint.save(new, state, run=fingerprint)  # processors differ in the last bits
    assert resume(old, steps) == resume(new, steps)
    for name in ("last.safetensors", "best.safetensors", "metrics.jsonl"):
        assert (old / name).read_bytes() == (new / name).read_bytes()


def test_this_version_writes_the_same_checkpoint_but_for_the_stream_of_plans(
    steps, tmp_path, monkeypatch
):
    monkeypatch.setattr("manifold_mixup._draw.stream.VERSION", 1)  # that of the older version
    stop(tmp_path, steps)
    expected = load_file(OLD / "stopped" / checkpoint.LATEST)
    found = load_file(tmp_path / checkpoint.LATEST)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)
