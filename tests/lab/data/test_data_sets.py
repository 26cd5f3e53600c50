"""The paper's data sets, from real files if available, or else from files like them."""

import math
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import factors, spirals, svhn, tiny_imagenet
from manifold_mixup.lab.models.standardize import Standardize

REAL = Path(__file__).parents[4] / "shared" / "data"
BYTES = np.random.default_rng(0).integers(256, size=(12, 8, 8, 3), dtype=np.uint8)


def images_of(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).numpy()


# CIFAR


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_from_a_packed_copy(tmp_path, classes):
    labels = np.arange(12) % classes
    arrays = {"x_train": BYTES, "y_train": labels, "x_test": BYTES[:5], "y_test": labels[:5]}
    np.savez(tmp_path / f"cifar{classes}.npz", **arrays)
    task = datasets.load(f"cifar-{classes}", root=tmp_path)
    assert (task.name, task.classes, task.x.dtype) == (f"CIFAR-{classes}", classes, torch.uint8)
    assert np.array_equal(images_of(task.x), BYTES)
    assert np.array_equal(images_of(task.x_test), BYTES[:5])
    assert task.y.tolist() == labels.tolist()


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_as_torchvision_reads_it(tmp_path, monkeypatch, classes):
    def published(root, download, train):
        assert (root, download) == (str(tmp_path), True)
        count = 12 if train else 5
        return types.SimpleNamespace(data=BYTES[:count], targets=list(range(count)))

    monkeypatch.setattr(f"torchvision.datasets.CIFAR{classes}", published)
    task = datasets.load(f"cifar-{classes}", root=tmp_path)
    assert np.array_equal(images_of(task.x), BYTES)
    assert task.y_test.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.skipif(not (REAL / "cifar10").is_dir(), reason="no copy of CIFAR-10 at hand")
def test_the_moments_are_those_of_cifar_10(tmp_path):
    sheets = [
        np.asarray(Image.open(REAL / "cifar10" / f"{n:02}.webp").convert("RGB")) for n in (0,)
    ]
    x = np.concatenate([s.reshape(50, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4) for s in sheets])
    x = x.reshape(-1, 32, 32, 3)
    y = np.load(REAL / "cifar10" / "labels.npy")[: len(x)]
    np.savez(tmp_path / "cifar10.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    task = datasets.load("cifar-10", root=tmp_path)
    seen = Standardize(task)(datasets.as_input(task.x))
    assert seen.mean((0, 2, 3)).abs().max() < 0.05  # for 2,000 images, not all
    assert (seen.std((0, 2, 3)) - 1).abs().max() < 0.05
    assert task.y.bincount(minlength=10).min() > 150


def test_a_damaged_packed_copy_is_named(tmp_path):
    (tmp_path / "cifar10.npz").write_bytes(b"PK no archive")
    with pytest.raises(OSError, match=r"cifar10\.npz is damaged"):
        datasets.load("cifar-10", root=tmp_path)


# SVHN


def test_svhn_is_capped_per_class_and_not_mirrored_by_any_recipe(tmp_path, monkeypatch):
    counts = [svhn.CAP + 5, svhn.CAP, 3, *[2] * 7]

    def published(root, download, split):
        labels = np.repeat(np.arange(10), counts if split == "train" else 2)
        return types.SimpleNamespace(data=np.zeros((len(labels), 3, 1, 1), np.uint8), labels=labels)

    monkeypatch.setattr("torchvision.datasets.SVHN", published)
    task = datasets.load("svhn", root=tmp_path)
    assert task.y.bincount().tolist() == [svhn.CAP, svhn.CAP, 3, *[2] * 7]
    assert len(task.x_test) == 20


def test_the_cap_leaves_the_number_of_images_the_authors_had():
    published = [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659]
    assert sum(published) == 73_257
    assert sum(min(count, svhn.CAP) for count in published) == 62_156


# Tiny-ImageNet


@pytest.fixture
def tiny(tmp_path) -> Path:
    folder = tmp_path / "tiny-imagenet-200"
    names = ["n02", "n01", "n03"]
    (folder / "val" / "images").mkdir(parents=True)
    (folder / "wnids.txt").write_text("\n".join(names) + "\n")
    lines = []
    for place, name in enumerate(names):
        (folder / "train" / name / "images").mkdir(parents=True)
        for number in range(2):
            grey = Image.new("L" if number else "RGB", (64, 64), 40 * place)  # some are grey
            grey.save(folder / "train" / name / "images" / f"{name}_{number}.JPEG")
        Image.new("RGB", (64, 64), (0, 60 * place, 0)).save(
            folder / "val" / "images" / f"val_{place}.JPEG"
        )
        lines.append(f"val_{place}.JPEG\t{name}\t0\t0\t63\t63")
    (folder / "val" / "val_annotations.txt").write_text("\n".join(reversed(lines)))
    return tmp_path


def test_tiny_imagenet_is_unpacked_once_with_its_validation_set_arranged(tiny):
    task = datasets.load("tiny-imagenet", root=tiny)
    assert task.x.shape == (6, 3, 64, 64)
    assert task.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert task.y_test.tolist() == [2, 1, 0]
    green = task.x_test[:, 1].float().mean((1, 2))
    torch.testing.assert_close(green, torch.tensor([120.0, 60.0, 0.0]), atol=3, rtol=0)
    (tiny / "tiny-imagenet-200" / "wnids.txt").unlink()
    assert torch.equal(datasets.load("tiny-imagenet", root=tiny).x, task.x)


def test_an_incomplete_copy_of_tiny_imagenet_is_named(tiny):
    (tiny / "tiny-imagenet-200" / "val" / "val_annotations.txt").unlink()
    with pytest.raises(OSError, match="tiny-imagenet-200 is incomplete"):
        datasets.load("tiny-imagenet", root=tiny)
    assert not (tiny / tiny_imagenet.CACHE).exists()


def test_a_failed_download_of_tiny_imagenet_tells_the_way_out(tmp_path, monkeypatch):
    def no_network(*_, md5):
        assert md5 == tiny_imagenet.MD5
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", no_network)
    with pytest.raises(
        OSError, match=r"could not be downloaded \(no network\)\. If you have a copy"
    ):
        datasets.load("tiny-imagenet", root=tmp_path)


# Two spirals


def test_the_spirals_mirror_each_other_and_wind_twice():
    task = datasets.load("spirals", root=Path("nowhere"))
    assert task.x.shape == (2 * spirals.PER_CLASS, 2)
    assert task.y.bincount().tolist() == [spirals.PER_CLASS] * 2
    one, other = task.x[task.y == 0], task.x[task.y == 1]
    assert torch.equal(one, -other)
    radius = one.norm(dim=1)
    arm = torch.stack(
        [-radius.cos() * radius, radius.sin() * radius], 1
    )  # the radius equals the angle
    assert (arm - one).norm(dim=1).mean() < 0.4 * (arm + one).norm(dim=1).mean()
    assert radius.max() < math.radians(780) + 0.5
    again = datasets.load("spirals", root=Path("nowhere"))
    assert torch.equal(again.x, task.x)
    assert not torch.equal(spirals.load(seed=1).x, task.x)


# Rendered digits


@pytest.mark.parametrize("task", ["a", "b", "c"])
def test_factors_lie_where_the_paper_says(task):
    for train, halves in ((True, factors.TASKS[task].train), (False, factors.TASKS[task].test)):
        table, y = factors.draw(task, 500, seed=0, train=train)
        columns = dict(zip(factors.NAMES, table.T, strict=True))
        angle = columns["angle"]
        (low, high), (low_too, high_too) = halves
        first = (low <= angle) & (angle <= high)
        assert (first | ((low_too <= angle) & (angle <= high_too))).all()
        assert 200 < first.sum() < 300
        one = columns["xlen"] <= 20
        assert (columns["xlen"][~one] >= 40).all()
        assert torch.equal(y, (~one if task == "c" else ~first).long())


def test_a_seven_has_more_ink_than_a_one_and_angle_turns_it():
    upright = torch.tensor([[0.0, 60, 30, 0, 0, 20, 0], [0, 60, 30, 0, 0, 20, 100]])
    one, seven = factors.render(upright)[:, 0].float()
    assert one.shape == (64, 64)
    assert seven.sum() > 1.2 * one.sum()
    turned = upright.clone()
    turned[:, 0] = 90
    lying = factors.render(turned)[0, 0].float()
    assert one.sum(0).argmax() in range(24, 32)  # an upright stem is in one column
    assert lying.sum(1).max() > 3 * one.sum(1).max()  # a turned one is in one row


def test_a_task_of_rendered_digits(monkeypatch):
    monkeypatch.setattr(factors, "TRAIN", 30)
    monkeypatch.setattr(factors, "TEST", 10)
    task = datasets.load("factors-b", root=Path("nowhere"))
    assert task.x.shape == (30, 1, 64, 64)
    assert task.x.dtype == torch.uint8
    assert torch.equal(task.x, datasets.load("factors-b", root=Path("nowhere")).x)
    assert set(task.y_test.tolist()) == {0, 1}


def test_mixed_factors_lie_between_two_draws_and_so_do_their_labels(monkeypatch):
    monkeypatch.setattr(factors, "TRAIN", 400)
    monkeypatch.setattr(factors, "TEST", 10)
    task = factors.load("a", mixed=True)
    assert task.name == "factors mixed, task A"
    assert task.y.shape == (400, 2)
    assert torch.allclose(task.y.sum(1), torch.ones(400))
    table, y = factors._mixed("a", 400, seed=0)
    assert torch.equal(task.y, y)
    assert torch.equal(task.x, factors.render(table))
    angle = table[:, factors.NAMES.index("angle")]
    between = (y[:, 0] > 0) & (y[:, 1] > 0)  # a pair of different classes
    assert 150 < between.sum() < 250
    # The angle follows the label: -70 to -50 for class 0, 50 to 80 for class 1.
    assert (angle >= -70 * y[:, 0] + 50 * y[:, 1] - 1e-3).all()
    assert (angle <= -50 * y[:, 0] + 80 * y[:, 1] + 1e-3).all()
    plain = factors.load("a")
    assert torch.equal(task.x_test, plain.x_test)
    assert torch.equal(task.y_test, plain.y_test)


# Folders of images


def write_folder(path: Path, *, test: str = "test", size: int = 8) -> None:
    for part, count in (("train", 3), (test, 2)):
        for place, name in enumerate(("cat", "dog")):
            (path / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.fromarray(BYTES[6 * place + number][:size, :size])
                image.save(path / part / name / f"{number}.png")


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_of_images(tmp_path, test):
    write_folder(tmp_path / "pets", test=test)
    task = datasets.load(str(tmp_path / "pets"), root=Path("nowhere"))
    assert (task.name, task.classes) == ("pets", 2)
    assert task.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(images_of(task.x), BYTES[[0, 1, 2, 6, 7, 8]])
    assert np.array_equal(images_of(task.x_test), BYTES[[0, 1, 6, 7]])


def test_malformed_folders_are_described(tmp_path):
    with pytest.raises(ValueError, match=r"has no folders train and test \(or val\)"):
        datasets.load(str(tmp_path), root=tmp_path)
    write_folder(tmp_path / "a")
    Image.new("RGB", (5, 8)).save(tmp_path / "a" / "train" / "dog" / "odd.png")
    with pytest.raises(
        ValueError, match=r"odd\.png has \(8, 5\) pixels, but .*0\.png has \(8, 8\)"
    ):
        datasets.load(str(tmp_path / "a"), root=tmp_path)
    write_folder(tmp_path / "b")
    (tmp_path / "b" / "test" / "dog").rename(tmp_path / "b" / "test" / "cow")
    with pytest.raises(ValueError, match=r"have different classes: cow, dog"):
        datasets.load(str(tmp_path / "b"), root=tmp_path)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_eight_bits_are_refused_not_cut_off(tmp_path, mode):
    write_folder(tmp_path / "a")
    deep = np.full((8, 8), 300).astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    Image.fromarray(deep).save(tmp_path / "a" / "train" / "dog" / "deep.tif")
    with pytest.raises(ValueError, match=rf"deep\.tif has pixels of more .*mode {mode}\)\. Scale"):
        datasets.load(str(tmp_path / "a"), root=tmp_path)


def test_other_kinds_of_files_are_passed_over_but_no_image(tmp_path):
    write_folder(tmp_path / "a")
    (tmp_path / "a" / "train" / "dog" / "notes.txt").write_text("three dogs")
    assert len(datasets.load(str(tmp_path / "a"), root=tmp_path).x) == 6
    (tmp_path / "a" / "train" / "dog" / ".hidden.gif").write_bytes(b"")
    assert len(datasets.load(str(tmp_path / "a"), root=tmp_path).x) == 6
    (tmp_path / "a" / "train" / "dog" / "0.png").rename(tmp_path / "a" / "train" / "dog" / "0.gif")
    with pytest.raises(ValueError, match=r"0\.gif is an image \(image/gif\) .* is not read"):
        datasets.load(str(tmp_path / "a"), root=tmp_path)


# Other libraries' data sets


class Few:
    """A stand-in for a torchvision data set with a ``split``."""

    def __init__(self, root, split="train", download=False):
        self.count = 4 if split == "train" else 2

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        return Image.fromarray(BYTES[place]), place % 2


def test_a_data_set_of_torchvision_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.STL10", Few)
    task = datasets.load("torchvision:STL10", root=tmp_path)
    assert (task.name, task.classes, len(task.x), len(task.x_test)) == ("STL10", 2, 4, 2)
    assert np.array_equal(images_of(task.x), BYTES[:4])


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm leaves files open
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_data_set_of_timm_by_name(tmp_path):
    write_folder(tmp_path, test="validation")
    task = datasets.load("timm:folder", root=tmp_path)
    assert (len(task.x), len(task.x_test), task.classes) == (6, 4, 2)


def test_unknown_names_of_other_libraries(tmp_path):
    with pytest.raises(
        ValueError, match=r"torchvision has no data set 'STL11'\. Did you mean .tor"
    ):
        datasets.load("torchvision:STL11", root=tmp_path)
    with pytest.raises(OSError, match="timm cannot open 'nothing/at/all'"):
        datasets.load("timm:nothing/at/all", root=tmp_path)


# Subsets of a training set


def test_so_many_of_every_class():
    y = torch.tensor([0] * 9 + [1] * 4 + [2] * 7)
    x = torch.arange(20.0)[:, None]
    task = datasets.Data("t", x, y, x[:3], y[:3], classes=3, eps=0.1, space="units")
    some = datasets.take_per_class(task, 5)
    assert some.y.bincount().tolist() == [5, 4, 5]
    assert torch.equal(y[some.x[:, 0].long()], some.y)
    assert torch.equal(some.x, datasets.take_per_class(task, 5).x)
    assert not torch.equal(some.x, datasets.take_per_class(task, 5, seed=1).x)
    assert some.x_test is task.x_test
    with pytest.raises(ValueError, match="0 examples per class were requested"):
        datasets.take_per_class(task, 0)
