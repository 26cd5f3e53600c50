"""Tables with numbers as targets, from arrays of their published form."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import sklearn.datasets
import torch

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import hold_out, take, take_per_class
from manifold_mixup.lab.data.long_tail import long_tailed

HOUSES = np.array([
    # value, income, age, rooms, bedrooms, people, households, latitude, longitude
    [452600.0, 8.3252, 41, 880, 129, 322, 126, 37.88, -122.23],
    [358500.0, 8.3014, 21, 7099, 1106, 2401, 1138, 37.86, -122.22],
    [352100.0, 7.2574, 52, 1467, 190, 496, 177, 37.85, -122.24],
    [341300.0, 5.6431, 52, 1274, 235, 558, 219, 37.85, -122.25],
    [342200.0, 3.8462, 52, 1627, 280, 565, 259, 37.85, -122.25],
])  # fmt: skip
"""The first districts, as scikit-learn keeps them after its download."""


@pytest.fixture
def houses(tmp_path):
    """A folder with scikit-learn's file of a few districts."""
    joblib = pytest.importorskip("joblib")
    joblib.dump(HOUSES, tmp_path / "cal_housing_py3.pkz")
    return tmp_path


def test_california_housing_from_scikit_learns_file(houses):
    data = datasets.load("california-housing", root=houses)
    assert (len(data.x), len(data.x_test)) == (4, 1)
    rows = torch.cat([data.x, data.x_test])
    values = torch.cat([data.y, data.y_test])
    first = rows[values == values.max()][0]
    expected = [8.3252, 41, 880 / 126, 129 / 126, 322, 322 / 126, 37.88, -122.23]
    torch.testing.assert_close(first, torch.tensor(expected))
    torch.testing.assert_close(
        values.sort().values, torch.tensor(HOUSES[:, 0]).float().sort().values / 1e5
    )
    assert data.regression
    assert data.outputs == 1


def test_what_is_not_there_and_cannot_be_downloaded(tmp_path, monkeypatch):
    def offline(**_):
        raise OSError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_california_housing", offline)
    with pytest.raises(OSError, match=r"failed \(no route to host\). If you have a copy"):
        datasets.load("california-housing", root=tmp_path)


def test_a_damaged_file_is_named(houses):
    (houses / "cal_housing_py3.pkz").write_bytes(b"no archive")
    with pytest.raises(OSError, match="fetch_california_housing failed"):
        datasets.load("california-housing", root=houses)


def test_without_scikit_learn_there_is_a_way_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match="pip install scikit-learn"):
        datasets.load("diabetes", root=tmp_path)


def test_diabetes_needs_no_download(tmp_path):
    data = datasets.load("diabetes", root=tmp_path / "none")
    assert (tuple(data.x.shape), tuple(data.x_test.shape)) == ((354, 10), (88, 10))
    theirs = sklearn.datasets.load_diabetes(scaled=False)
    ours = torch.cat([data.y, data.y_test]).sort().values
    assert torch.equal(ours, torch.tensor(theirs.target).float().sort().values)
    assert torch.equal(data.x, datasets.load("diabetes", root=tmp_path).x)
    scaled = (data.x - torch.tensor(data.mean)) / torch.tensor(data.std)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(10))


def test_subsets_of_numbers(tmp_path):
    data = datasets.load("diabetes", root=tmp_path)
    assert len(take(data, 50).x) == 50
    held = hold_out(data)
    assert (len(held.x), len(held.x_test)) == (283, 71)
    assert held.regression
    for refused in (lambda: long_tailed(data, 10), lambda: take_per_class(data, 5)):
        with pytest.raises(ValueError, match="Diabetes has n"):
            refused()
    assert not replace(data, classes=3).regression
