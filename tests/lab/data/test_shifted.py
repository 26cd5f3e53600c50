"""CIFAR-10-C, CIFAR-100-C and CIFAR-10.1, from small files of the published form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from manifold_mixup.lab.data import Data, take_tested
from manifold_mixup.lab.data.arrays import PIXELS
from manifold_mixup.lab.data.shifted import CORRUPTIONS, EXTRA, cifar_10_1, cifar_c

ROWS = 6


def cifar(classes: int = 10) -> Data:
    x = torch.zeros(ROWS, 3, 32, 32, dtype=torch.uint8)
    y = torch.arange(ROWS) % classes
    return Data(f"CIFAR-{classes}", x, y, x, y, classes=classes, **PIXELS)


def write_corrupted(folder, kinds=(*CORRUPTIONS, "spatter"), rows=ROWS):
    """Each image has the severity in its red channel and its number in its green one."""
    np.save(folder / "labels.npy", np.tile(np.arange(rows), 5).astype(np.uint8))
    images = np.zeros((5 * rows, 32, 32, 3), np.uint8)
    images[..., 0] = (np.arange(5 * rows) // rows + 1)[:, None, None]
    images[..., 1] = (np.arange(5 * rows) % rows)[:, None, None]
    for k, kind in enumerate(kinds):
        images[:, 0, 0, 2] = k
        np.save(folder / f"{kind}.npy", images)


@pytest.mark.parametrize("classes", [10, 100])
def test_severities_follow_each_other_in_the_order_of_the_test_set(tmp_path, classes):
    write_corrupted(tmp_path)
    found = cifar_c(tmp_path, cifar(classes))
    assert found.kinds == (*CORRUPTIONS, "spatter")
    assert len(CORRUPTIONS) == 15
    assert len(EXTRA) == 4
    for k, kind in enumerate(found.kinds):
        parts = list(found.images(kind))
        assert len(parts) == 5
        for severity, x in enumerate(parts, start=1):
            assert (x.shape, x.dtype) == ((ROWS, 3, 32, 32), torch.uint8)
            assert (x[:, 0] == severity).all()
            assert x[:, 1, 5, 7].tolist() == list(range(ROWS))
            assert (x[:, 2, 0, 0] == k).all()
    assert found.labels.tolist() == list(range(ROWS))


def test_a_part_is_that_of_the_test_set(tmp_path):
    write_corrupted(tmp_path)
    data = cifar()
    found, few = cifar_c(tmp_path, data, count=4), take_tested(data, 4)
    assert torch.equal(found.labels, few.y_test)
    assert [x[:, 1, 0, 0].tolist() for x in found.images("fog")] == [few.y_test.tolist()] * 5


def test_what_identifies_the_files_changes_with_them(tmp_path):
    write_corrupted(tmp_path)
    first = cifar_c(tmp_path, cifar()).describe()
    assert cifar_c(tmp_path, cifar()).describe() == first
    assert cifar_c(tmp_path, cifar(), count=3).describe() != first
    np.save(tmp_path / "fog.npy", np.load(tmp_path / "fog.npy") + 1)
    assert cifar_c(tmp_path, cifar()).describe() != first


def test_missing_files_are_named_with_the_archive(tmp_path):
    write_corrupted(tmp_path)
    (tmp_path / "snow.npy").unlink()
    (tmp_path / "fog.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no snow.npy, fog.npy. Unpack CIFAR-10-C.tar"):
        cifar_c(tmp_path, cifar())
    with pytest.raises(FileNotFoundError, match=r"has no labels.npy.*CIFAR-100-C.tar from https"):
        cifar_c(tmp_path / "nowhere", cifar(100))


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("labels", np.arange(11), r"int64 of shape \(11,\). Expected integers, as many for"),
        ("labels", np.zeros((5, 6)), r"float64 of shape \(5, 6\)"),
        ("labels", np.arange(5) + 3, "5 parts differ, so the severities"),
        ("labels", np.full(30, 10), "labels from 10 to 10, but CIFAR-10 has 10 classes"),
        ("labels", np.tile([0, 1, 2, 3, 5, 5], 5), "differs from .* in 1 of 6 rows"),
        ("fog", np.zeros((30, 3, 32, 32), np.uint8), r"shape \(30, 3, 32, 32\), but .* 30 labels"),
        ("frost", np.zeros((25, 32, 32, 3), np.uint8), r"Expected uint8 of shape \(30, 32, 32, 3"),
        ("spatter", np.zeros((30, 32, 32, 3)), "float64 of shape"),
    ],
)
def test_files_of_another_form_are_refused_by_name(tmp_path, name, array, says):
    write_corrupted(tmp_path)
    np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(ValueError, match=says) as error:
        cifar_c(tmp_path, cifar())
    assert str(tmp_path / f"{name}.npy") in str(error.value)
    assert "CIFAR-10-C.tar from https://zenodo.org/records/2535967" in str(error.value)


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    write_corrupted(tmp_path)
    whole = (tmp_path / "fog.npy").read_bytes()
    (tmp_path / "fog.npy").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"fog.npy cannot be read: .* Unpack or download it again"):
        cifar_c(tmp_path, cifar())


@pytest.mark.parametrize(
    "other", [{"classes": 12}, {"bounds": None}, {"x_test": torch.zeros(6, 1, 28, 28)}]
)
def test_models_of_other_data_are_refused(tmp_path, other):
    write_corrupted(tmp_path)
    with pytest.raises(ValueError, match="Evaluate a model that was trained on CIFAR"):
        cifar_c(tmp_path, replace(cifar(), **other))


def write_re_test(folder, version, labels=(3, 9, 0)):
    images = np.zeros((len(labels), 32, 32, 3), np.uint8)
    images[:, 1, 2, 0] = labels
    np.save(folder / f"cifar10.1_{version}_data.npy", images)
    np.save(folder / f"cifar10.1_{version}_labels.npy", np.array(labels, np.int32))


def test_both_versions_of_the_re_test_are_read(tmp_path):
    write_re_test(tmp_path, "v4")
    write_re_test(tmp_path, "v6", labels=(7,))
    found = cifar_10_1(tmp_path, cifar())
    x, y = found["v4"]
    assert list(found) == ["v4", "v6"]
    assert (x.shape, x.dtype, y.dtype) == ((3, 3, 32, 32), torch.uint8, torch.int64)
    assert x[:, 0, 1, 2].tolist() == y.tolist() == [3, 9, 0]


def test_a_re_test_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no cifar10.1_v4_data.npy and no .*v6_data"):
        cifar_10_1(tmp_path, cifar())
    write_re_test(tmp_path, "v6")
    with pytest.raises(ValueError, match="ten classes of CIFAR-10, but CIFAR-100 has 100"):
        cifar_10_1(tmp_path, cifar(100))
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.array([3, 10, 0]))
    with pytest.raises(ValueError, match=r"v6_labels.npy has .* Expected integers from 0 to 9"):
        cifar_10_1(tmp_path, cifar())
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.array([3, 1]))
    with pytest.raises(ValueError, match=r"v6_data.npy has uint8 of shape \(3, 32.* 2 labels"):
        cifar_10_1(tmp_path, cifar())
    (tmp_path / "cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"no cifar10.1_v6_labels.npy. Download it from"):
        cifar_10_1(tmp_path, cifar())
