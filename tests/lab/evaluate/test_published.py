"""CIFAR-C and CIFAR-10.1 in the battery, with a model that reads the class off the images."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from manifold_mixup.lab.data import Data
from manifold_mixup.lab.data.arrays import PIXELS
from manifold_mixup.lab.data.shifted import CORRUPTIONS, cifar_10_1, cifar_c
from manifold_mixup.lab.evaluate import Settings, evaluate
from manifold_mixup.lab.evaluate.statistics import binomial_interval
from manifold_mixup.lab.runs import evaluation as evaluations

ROWS = 10


class Reader(nn.Module):
    """Predicts the class in the red channel, in tenths of the range of uint8."""

    def forward(self, x):
        told = (255 * x[:, 0, 0, 0]).round().long()
        return nn.functional.one_hot(told, 10).float()


@pytest.fixture
def data() -> Data:
    x, y = torch.zeros(ROWS, 3, 32, 32, dtype=torch.uint8), torch.arange(ROWS)
    return Data("CIFAR-10", x, y, x, y, classes=10, **PIXELS)


@pytest.fixture
def folder(tmp_path) -> Path:
    """At severity s, corruption k shows min(s, 1 + k % 3) of ten images as another class."""
    y = np.tile(np.arange(ROWS), 5)
    np.save(tmp_path / "labels.npy", y)
    for k, kind in enumerate((*CORRUPTIONS, "saturate")):
        images = np.zeros((5 * ROWS, 32, 32, 3), np.uint8)
        images[..., 0] = y[:, None, None]
        for severity in range(1, 6):
            for j in range(min(severity, 1 + k % 3)):
                images[(severity - 1) * ROWS + j, ..., 0] = 9 - j
        np.save(tmp_path / f"{kind}.npy", images)
    for version, wrong in (("v4", 3), ("v6", 0)):
        labels = np.arange(20) % 10
        images = np.zeros((20, 32, 32, 3), np.uint8)
        images[..., 0] = ((labels + (np.arange(20) < wrong)) % 10)[:, None, None]
        np.save(tmp_path / f"cifar10.1_{version}_data.npy", images)
        np.save(tmp_path / f"cifar10.1_{version}_labels.npy", labels)
    return tmp_path


def test_mce_is_the_mean_over_fifteen_corruptions_and_five_severities(data, folder):
    settings = Settings(cifar_c=cifar_c(folder, data))
    result = evaluate(Reader(), data, battery=["cifar-c"], settings=settings)
    found = result["cifar-c"]
    keys = {key for row in found for key in row}
    assert keys - {"name", "extra", "stated"} < set(result["units"])
    rows = {row["name"]: row for row in found}
    expected = [[10.0 * min(s, 1 + k % 3) for s in range(1, 6)] for k in range(15)]
    assert [rows[kind]["errors"] for kind in CORRUPTIONS] == expected
    assert rows["mCE"]["error"] == pytest.approx(np.mean(expected))
    assert rows["mCE"]["errors"] == pytest.approx(np.mean(expected, 0).tolist())
    # 10 % at every severity, as the sixteenth file: it would change the mean.
    assert rows["saturate"]["error"] == 10
    assert rows["saturate"]["extra"]
    assert not rows["fog"]["extra"]
    assert {row["images"] for row in found} == {ROWS}


def test_cifar_10_1_has_its_interval(data, folder):
    settings = Settings(cifar_10_1=cifar_10_1(folder, data))
    v4, v6 = evaluate(Reader(), data, battery=["cifar-10.1"], settings=settings)["cifar-10.1"]
    low, high = binomial_interval(3, 20)
    assert v4 == {
        "name": "v4",
        "error": 15.0,
        "error_low": 100 * low,
        "error_high": 100 * high,
        "images": 20,
    }
    assert (v6["error"], v6["error_low"]) == (0, 0)


@pytest.mark.parametrize(("part", "option"), [("cifar-c", "cifar-c"), ("cifar-10.1", "cifar-10-1")])
def test_a_part_without_its_files_says_what_to_give(data, part, option):
    with pytest.raises(ValueError, match=f"--{option} FOLDER"):
        evaluate(Reader(), data, battery=[part])


def test_stored_evaluations_know_the_files(data, folder):
    parts = ["cifar-c", "cifar-10.1"]
    plain = evaluations._request(parts, Settings(), data)
    assert not {"cifar_c", "cifar_10_1"} & set(plain["settings"])  # as in older evaluations
    files = Settings(cifar_c=cifar_c(folder, data), cifar_10_1=cifar_10_1(folder, data))
    asked = evaluations._request(parts, files, data)
    assert asked != plain
    assert evaluations._request(parts, files, data) == asked
    few = replace(files, cifar_c=cifar_c(folder, data, count=4))
    assert evaluations._request(parts, few, data) != asked
