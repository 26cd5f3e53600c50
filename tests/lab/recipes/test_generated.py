"""Names of draws: which are draws, which are not, and what is said about the others."""

from dataclasses import replace
from pathlib import Path

import pytest

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.data import folder, mnist1d, spirals
from manifold_mixup.lab.recipes import generated


@pytest.mark.parametrize("name", generated.GENERATED)
def test_a_name_and_its_seed_are_found_again(name):
    for seed in (0, 7, generated.LARGEST):
        assert generated.split(generated.with_seed(name, seed)) == (name, seed)
        assert generated.source(generated.with_seed(name, seed)) == name


OTHERS = (
    "spirals", "spirals:", "spirals:-1", "spirals:03", "spirals:x", "spirals:²", "spirals:٣",
    f"mnist-1d:{generated.LARGEST + 1}", "cifar-10:3", "timm:3", "a/photos:3", "blobs:3.npz",
)  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_names_are_no_draws(name):
    assert generated.split(name) == (name, None)


def test_what_is_wrong_with_a_draw_is_said():
    assert "'-1'. Expected a whole number from 0 to" in generated.fault(
        "spirals:-1", datasets.NAMES
    )
    assert "factors-a, which cannot be drawn" in generated.fault("factors-a:3", datasets.NAMES)
    for name in ("spirals", "spirals:3", "timm:3", "a/photos:3"):
        assert generated.fault(name, datasets.NAMES) == ""


def test_the_seed_is_that_of_the_data_and_in_their_name(monkeypatch):
    found = datasets.load("spirals-100:4", root=Path())
    assert found.x.equal(spirals.load(per_class=100, seed=4).x)
    assert found.name == "Two spirals, draw 4"

    def made(*, seed):
        return replace(found, name=f"from {seed}")

    monkeypatch.setitem(datasets._GENERATED, "mnist-1d", made)
    assert datasets.load("mnist-1d:7", root=Path()).name == "from 7, draw 7"


def test_the_greatest_seed_is_that_of_numpy_generators():
    assert mnist1d.APART + generated.LARGEST == 2**32 - 1


def test_a_folder_may_be_named_like_a_draw_of_something_else(tmp_path, monkeypatch):
    (tmp_path / "photos:3").mkdir()
    loaded = []
    monkeypatch.setattr(folder, "load", loaded.append)
    datasets.load(str(tmp_path / "photos:3"), root=Path())
    assert loaded == [tmp_path / "photos:3"]
