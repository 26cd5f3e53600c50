"""Data sets: their contents, and the errors for damaged or malformed files."""

import gzip
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mnist1d.data import get_dataset_args, make_dataset

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import idx, mnist1d
from manifold_mixup.lab.data.arrays import in_units_of
from manifold_mixup.lab.data.validation import validation
from manifold_mixup.lab.models.standardize import Standardize

REAL = Path(__file__).parents[4] / "shared" / "data"

needs_real_data = pytest.mark.skipif(
    not (REAL / "FashionMNIST").is_dir(), reason="no copy of Fashion-MNIST at hand"
)


@pytest.fixture(scope="module")
def signals() -> datasets.Data:
    return datasets.load("mnist-1d", root=Path("nowhere"))


def test_mnist_1d_has_its_published_training_signals_and_as_many_for_testing(signals):
    assert signals.x.shape == (4000, 40)
    assert signals.x_test.shape == (4000, 40)
    assert signals.x.dtype == torch.float32
    assert signals.y.dtype == torch.int64
    assert signals.y.unique().tolist() == list(range(10))
    assert signals.x.std().item() == pytest.approx(1, abs=0.01)


def test_mnist_1d_is_the_one_its_package_publishes(signals):
    raw = make_dataset(get_dataset_args())
    assert torch.equal(signals.x, torch.from_numpy(raw["x"]).float())
    assert torch.equal(signals.y, torch.from_numpy(raw["y"]))
    assert torch.equal(signals.x_test[:1000], torch.from_numpy(raw["x_test"]).float())
    assert torch.equal(signals.y_test[:1000], torch.from_numpy(raw["y_test"]))


def test_the_further_test_signals_of_mnist_1d_are_of_the_same_kind(signals):
    further, labels = signals.x_test[1000:], signals.y_test[1000:]
    assert labels.bincount().tolist() == [300] * 10
    seen = torch.stack([signals.x[signals.y == label].mean(0) for label in range(10)])
    new = torch.stack([further[labels == label].mean(0) for label in range(10)])
    apart = torch.cdist(new, seen)
    assert apart.diagonal().mean() < apart.mean() / 4  # classes are at the same positions
    assert further.std().item() == pytest.approx(signals.x.std().item(), rel=0.02)


@pytest.fixture
def few_signals(monkeypatch):
    """Let further draws have few signals."""
    for part, count in {"TRAIN": 400, "TEST": 100, "MORE": 300}.items():
        monkeypatch.setattr(mnist1d, part, count)


def test_no_signal_of_mnist_1d_is_there_twice_in_whatever_draw(signals, few_signals):
    other = mnist1d.load(seed=1000)
    assert (other.x.shape, other.x_test.shape) == ((400, 40), (400, 40))
    rows = torch.cat([signals.x, signals.x_test, other.x, other.x_test])
    assert len({tuple(row) for row in rows.tolist()}) == 8_800


@pytest.mark.usefixtures("few_signals")
def test_mnist_1d_is_the_same_every_time_and_leaves_global_randomness_alone():
    first = datasets.load("mnist-1d", root=Path("nowhere"))
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    again = datasets.load("mnist-1d", root=Path("nowhere"))
    assert torch.equal(again.x, first.x)
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_held_out_examples_are_not_trained_on(signals):
    held = datasets.hold_out(signals, seed=3)
    assert len(held.x_test) == 800
    rows = torch.cat([held.x, held.x_test])
    assert torch.equal(rows.sort(0).values, signals.x.sort(0).values)
    assert not torch.equal(held.x_test, datasets.hold_out(signals, seed=4).x_test)


@pytest.mark.parametrize("share", [1e-4, 0.9999])
def test_holding_out_nothing_or_everything_is_an_error(signals, share):
    with pytest.raises(
        ValueError, match=r"holds out \d+ and leaves \d+\. Expected at least 1 and 2"
    ):
        datasets.hold_out(signals, share=share)


def test_taking_some_examples_keeps_the_test_set(signals):
    some = datasets.take(signals, 100)
    assert some.x.shape == (100, 40)
    assert torch.equal(some.x, datasets.take(signals, 100).x)
    assert some.x_test is signals.x_test


def test_taking_more_examples_than_there_are_is_an_error(signals):
    with pytest.raises(
        ValueError, match="4001 training examples were requested, but MNIST-1D has 40"
    ):
        datasets.take(signals, 4001)


# Fashion-MNIST


def write_idx(path: Path, array: np.ndarray, *, packed: bool) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
    target = path.with_name(path.name + ".gz") if packed else path
    target.write_bytes(gzip.compress(content) if packed else content)


@pytest.fixture(params=[True, False], ids=["packed", "unpacked"])
def small_copy(tmp_path, request) -> Path:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name, count in (("train", 20), ("t10k", 10)):
        pixels = generator.integers(256, size=(count, 28, 28), dtype=np.uint8)
        write_idx(raw / f"{name}-images-idx3-ubyte", pixels, packed=request.param)
        labels = np.arange(count, dtype=np.uint8) % 10
        write_idx(raw / f"{name}-labels-idx1-ubyte", labels, packed=request.param)
    return tmp_path


def test_a_copy_at_hand_is_read_and_not_written_to(small_copy):
    before = sorted(small_copy.rglob("*"))
    task = datasets.load("fashion-mnist", root=small_copy)
    assert task.x.shape == (20, 1, 28, 28)
    assert task.x.dtype == torch.uint8
    assert 0.9 < datasets.as_input(task.x).max() <= 1
    assert task.y_test.tolist() == list(range(10))
    assert sorted(small_copy.rglob("*")) == before


def test_a_damaged_copy_is_named(small_copy):
    file = next((small_copy / "FashionMNIST" / "raw").glob("t10k-images*"))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(OSError, match=rf"{file.name} is damaged .*another --root"):
        datasets.load("fashion-mnist", root=small_copy)


def test_a_failed_download_tells_the_way_out(tmp_path, monkeypatch):
    def no_network(root: str, download: bool) -> None:
        raise RuntimeError("Error downloading train-images:\nTried mirror, got:\nno network")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", no_network)
    with pytest.raises(
        OSError, match=r"could not be downloaded \(no network\)\. If you have a copy"
    ):
        datasets.load("fashion-mnist", root=tmp_path)


@needs_real_data
def test_the_real_files_are_the_published_ones():
    task = idx.load(REAL, "FashionMNIST")
    assert (len(task.x), len(task.x_test)) == (60000, 10000)
    assert task.y.bincount().tolist() == [6000] * 10
    published = {"mean": 0.2860, "std": 0.3530}
    standardize = Standardize(task)
    for name, value in published.items():
        assert getattr(standardize, name).item() == pytest.approx(value, abs=1e-4)
    packed = REAL / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz"
    assert task.y_test.tolist() == list(gzip.decompress(packed.read_bytes())[8:])


# .npz


def arrays(**changes: Any) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    usual = {
        "x_train": generator.normal(3, 2, size=(30, 5)),
        "y_train": np.arange(30) % 3,
        "x_test": generator.normal(3, 2, size=(9, 5)),
        "y_test": np.arange(9) % 3,
    }
    return {key: value for key, value in (usual | changes).items() if value is not None}


def load_npz(folder: Path, **changes: Any) -> datasets.Data:
    np.savez(folder / "task.npz", **arrays(**changes))
    return datasets.load(str(folder / "task.npz"), root=folder)


def test_vectors_are_standardised_by_the_training_set(tmp_path):
    task = load_npz(tmp_path)
    assert task.name == "task"
    assert task.classes == 3
    assert task.x.mean(0).tolist() == pytest.approx([0] * 5, abs=1e-6)
    assert task.x.std(0, correction=0).tolist() == pytest.approx([1] * 5, rel=1e-5)
    assert task.x_test.mean().abs() > 1e-3
    assert (task.eps, task.space, task.bounds) == (0.1, "standard deviations", None)


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (6, 7, 3), (3, 6, 7)])
def test_bytes_are_pixels(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(256, size=(30, *shape), dtype=np.uint8)
    task = load_npz(tmp_path, x_train=pixels, x_test=pixels[:9])
    assert task.x.shape == (30, 3 if 3 in shape else 1, 6, 7)
    assert datasets.as_input(task.x).max().item() == np.float32(pixels.max()) / 255
    assert (task.space, task.bounds) == ("pixel space [0, 1]", (0.0, 1.0))
    if shape == (6, 7, 3):
        assert torch.equal(task.x[4, 2], torch.from_numpy(pixels[4, :, :, 2]))


@pytest.mark.parametrize("shape", [(5,), (6, 7)])
def test_inputs_of_another_file_are_taken_in_the_units_of_the_first(tmp_path, shape):
    generator = np.random.default_rng(0)
    x, far = generator.normal(3, 2, size=(2, 30, *shape)) + np.array([0, 50]).reshape(
        2, *[1] * (1 + len(shape))
    )
    data = load_npz(tmp_path, x_train=x, x_test=x[:9])
    other = load_npz(tmp_path, x_train=far, x_test=far[:9])
    axis = 0 if len(shape) == 1 else None
    expected = (far[:9] - x.mean(axis)) / x.std(axis)
    found = in_units_of(data, other)
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx(expected.ravel().tolist(), rel=1e-4)
    assert found.mean() > 20
    assert torch.equal(in_units_of(data, data), data.x_test)
    raw = replace(data, x_test=torch.from_numpy(x[:9]).float(), standardised=None)
    assert in_units_of(raw, other).flatten().tolist() == pytest.approx(far[:9].ravel().tolist())


def test_pixels_and_other_inputs_have_no_units_in_common(tmp_path):
    pixels = np.random.default_rng(0).random((30, 6, 7))
    images = load_npz(tmp_path, x_train=pixels, x_test=pixels[:9])
    other = load_npz(tmp_path, x_train=255 * pixels, x_test=255 * pixels[:9])
    assert in_units_of(images, images) is images.x_test
    for one, two in ((images, other), (other, images)):
        with pytest.raises(ValueError, match=r"task has inputs .*Images are pixels if they are"):
            in_units_of(one, two)


def test_labels_may_be_a_column(tmp_path):
    assert load_npz(tmp_path, y_train=np.arange(30)[:, None] % 3).y.shape == (30,)


def test_floating_point_targets_are_numbers(tmp_path):
    y = np.linspace(-1e3, 2e3, 39)
    task = load_npz(tmp_path, y_train=y[:30, None], y_test=y[30:])
    assert task.regression
    assert (task.classes, task.outputs) == (0, 1)
    assert task.y.dtype == torch.float32
    assert task.y.tolist() == pytest.approx(y[:30].tolist(), rel=1e-6)
    assert task.y_test.tolist() == pytest.approx(y[30:].tolist(), rel=1e-6)
    assert datasets.target_std(str(tmp_path / "task.npz")) == pytest.approx(y[:30].std())


def test_without_numbers_there_is_no_deviation(tmp_path):
    load_npz(tmp_path)
    assert datasets.target_std(str(tmp_path / "task.npz")) is None
    assert datasets.target_std(str(tmp_path / "nothing.npz")) is None
    assert datasets.target_std("mnist-1d") is None
    np.savez(tmp_path / "bad.npz", **arrays(y_train=np.full(30, np.nan)))
    assert datasets.target_std(str(tmp_path / "bad.npz")) is None


MALFORMED = {
    "missing arrays": (
        {"y_train": None, "y_test": None},
        r"has no y_train and no y_test; it has x_train, x_test\. Expected x_train, y_train, ",
    ),
    "lengths": (
        {"y_train": np.arange(29) % 3},
        r"y_train in task\.npz has shape \(29,\), but x_train has 30 rows\. Expected one target",
    ),
    "classes and numbers": (
        {"y_test": np.zeros(9)},
        r"y_train in task\.npz has type int64, but y_test has float64\. Expected integers in both",
    ),
    "text as targets": (
        {"y_test": np.array(["a"] * 9)},
        r"y_test in task\.npz has type <U1\. Expected integers for classes, or .* np\.unique",
    ),
    "complex targets": (
        {"y_test": np.zeros(9, complex)},
        r"y_test in task\.npz has type complex128\. Expected integers for classes, or floating",
    ),
    "no finite number": (
        {"y_train": np.where(np.arange(30) == 4, np.nan, 1.5), "y_test": np.zeros(9)},
        r"y_train in task\.npz has the target nan in row 4\. Expected finite numbers",
    ),
    "number beyond single precision": (
        {"y_train": np.linspace(0, 1, 30), "y_test": np.full(9, 1e39)},
        r"y_test in task\.npz has the target 1e\+39 in row 0\. Expected finite numbers of single",
    ),
    "equal numbers": (
        {"y_train": np.full(30, 2.5), "y_test": np.zeros(9)},
        r"all targets in y_train of task\.npz are 2\.5\. Expected numbers that differ",
    ),
    "negative label": (
        {"y_train": np.where(np.arange(30) == 4, -1, np.arange(30) % 3)},
        r"y_train in task\.npz has the label -1 in row 4\. Expected 0 or more",
    ),
    "label never trained": (
        {"y_test": np.full(9, 7)},
        r"y_test in task\.npz has the label 7 in row 0, which y_train does not have",
    ),
    "one class": (
        {"y_train": np.zeros(30, int), "y_test": np.zeros(9, int)},
        r"y_train in task\.npz has 1 classes from 0 to 0\. Expected two or more",
    ),
    "label out of range": (
        {"y_train": np.arange(30) % 3 * 1000},
        r"has 3 classes from 0 to 2000\. Expected two or more classes, numbered from 0",
    ),
    "labels from 1": (
        {"y_train": 1 + np.arange(30) % 3, "y_test": 1 + np.arange(9) % 3},
        r"has 3 classes from 1 to 3\. Expected .* numbered from 0 without gaps\. np\.unique\(",
    ),
    "one label per class": (
        {"y_train": np.eye(3)[np.arange(30) % 3]},
        r"y_train in task\.npz has shape \(30, 3\), 3 targets per row\. Expected .*argmax\(1\)",
    ),
    "objects as labels": (
        {"y_train": np.array(["a", "b"] * 15, dtype=object)},
        r"y_train in task\.npz contains Python objects, .* np\.unique\(",
    ),
    "no test examples": (
        {"x_test": np.ones((0, 5)), "y_test": np.zeros(0, int)},
        r"x_test in task\.npz has no rows: its shape is \(0, 5\)",
    ),
    "bytes and other integers": (
        {"x_train": np.full((30, 6, 7), 9, np.uint8), "x_test": np.full((9, 6, 7), 9, np.uint16)},
        r"x_train in task\.npz has type uint8, but x_test has uint16\. Expected uint8 in both",
    ),
    "pixels only in training": (
        {"x_train": np.ones((30, 6, 7)), "x_test": np.full((9, 6, 7), 255.0)},
        r"x_train in task\.npz have values from 1 to 1, but those of x_test from 255 to 255",
    ),
    "pixels only in the test": (
        {"x_train": np.full((30, 6, 7), 255.0), "x_test": np.ones((9, 6, 7))},
        r"x_train in task\.npz have values from 255 to 255, but those of x_test from 1 to 1",
    ),
    "NaN": (
        {"x_test": np.where(np.arange(45).reshape(9, 5) == 13, np.nan, 1.0)},
        r"x_test in task\.npz contains NaN or infinity, first in row 2",
    ),
    "other shape": (
        {"x_test": np.ones((9, 4))},
        r"x_train in task\.npz are float64 of shape \(5,\), but those of x_test are float64 of ",
    ),
    "dimensions": (
        {"x_train": np.ones(30)},
        r"x_train in task\.npz has shape \(30,\)\. Expected \(n, features\)",
    ),
    "text": (
        {"x_train": np.array([["a"] * 5] * 30)},
        r"x_train in task\.npz has type <U1\. Expected numbers",
    ),
    "objects": (
        {"x_train": np.array([None] * 30, dtype=object)},
        r"x_train in task\.npz contains Python objects, .*Expected an array of numbers\.",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_described(tmp_path, case):
    changes, message = MALFORMED[case]
    with pytest.raises(ValueError, match=message):
        load_npz(tmp_path, **changes)


@pytest.mark.parametrize(("first", "second"), [(1.0, 1.02), (1.3, 0.9)])
def test_images_scaled_by_the_range_of_others_have_the_same_units(tmp_path, first, second):
    x = np.random.default_rng(0).random((39, 4, 4, 3)).astype(np.float32)
    x[0, 0, 0, 0] = x[30, 0, 0, 0] = 1
    data = load_npz(tmp_path, x_train=first * x[:30], x_test=second * x[30:])
    assert len(data.x_test) == 9


@pytest.mark.parametrize("key", ["x_val", "y_val"])
def test_half_a_validation_set_is_not_passed_over(tmp_path, key):
    np.savez(tmp_path / "half.npz", **arrays(**{key: np.zeros(9)}))
    with pytest.raises(ValueError, match=rf"half\.npz has {key} alone\. Expected both"):
        validation(str(tmp_path / "half.npz"), root=tmp_path)


def test_a_file_that_is_no_archive_is_described(tmp_path):
    (tmp_path / "task.npz").write_text("no archive")
    with pytest.raises(
        ValueError, match=r"task\.npz is not an \.npz file\. Expected one with x_train"
    ):
        datasets.load(str(tmp_path / "task.npz"), root=tmp_path)


def test_a_single_array_is_no_archive(tmp_path):
    with (tmp_path / "task.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match=r"task\.npz is not an \.npz file"):
        datasets.load(str(tmp_path / "task.npz"), root=tmp_path)


def test_a_damaged_archive_is_described(tmp_path):
    load_npz(tmp_path)
    content = bytearray((tmp_path / "task.npz").read_bytes())
    content[300:400] = bytes(100)
    (tmp_path / "task.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"in task\.npz cannot be read: "):
        datasets.load(str(tmp_path / "task.npz"), root=tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.npz\. Expected an \.npz with x_"):
        datasets.load(str(tmp_path / "gone.npz"), root=tmp_path)


@pytest.mark.parametrize(
    ("name", "near"), [("fashon-mnist", "fashion-mnist"), ("MNIST1D", "mnist-1d")]
)
def test_an_unknown_data_set_is_answered_with_the_nearest_name(name, near):
    with pytest.raises(ValueError, match=rf"no data set '{name}'\. Did you mean '{near}'\? Known"):
        datasets.load(name, root=Path("nowhere"))


def test_a_data_set_unlike_any_other_gets_the_list():
    with pytest.raises(ValueError, match=r"no data set 'zzz'\. Known: mnist-1d, mnist, mnist"):
        datasets.load("zzz", root=Path("nowhere"))
