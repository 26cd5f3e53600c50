"""Validation examples: which they are, and that no test example is among them."""

import numpy as np
import pytest
import torch
from PIL import Image

from manifold_mixup.lab.data import npz as npz_files
from manifold_mixup.lab.data import reduced
from manifold_mixup.lab.data.validation import validation
from manifold_mixup.lab.recipes.recipe import Recipe


@pytest.fixture
def own(tmp_path, task):
    """A file with a validation set of its own, and a test set that cannot be used."""
    arrays = {"x_train": task.x, "y_train": task.y, "x_val": task.x_test, "y_val": task.y_test}
    path = tmp_path / "own.npz"
    np.savez(path, x_test=np.array(["no"]), **{key: one.numpy() for key, one in arrays.items()})
    return path


def rows(x):
    return {tuple(row.tolist()) for row in x}


def test_a_share_is_held_out_anew_for_each_seed(npz, task, tmp_path):
    found = validation(str(npz), root=tmp_path, share=0.3)
    splits = [found.split(seed) for seed in range(2)]
    for split in splits:
        assert (len(split.x), len(split.x_test)) == (175, 75)
        assert not rows(split.x) & rows(split.x_test)
    whole = [rows(split.x) | rows(split.x_test) for split in splits]
    assert whole[0] == whole[1]
    assert len(whole[0]) == 250
    assert rows(splits[0].x_test) != rows(splits[1].x_test)
    assert "each seed holds out 75 of the 250 training examples" in found.about


def test_by_default_a_fifth_is_held_out(npz, tmp_path):
    assert len(validation(str(npz), root=tmp_path).split(0).x_test) == 50


def test_the_test_set_is_not_in_the_split(npz, task, tmp_path):
    found = validation(str(npz), root=tmp_path)
    assert len(found.split.data.x_test) == 0
    standardised = (task.x_test - task.x.mean(0)) / task.x.std(0, correction=0)
    split = found.split(0)
    every = torch.cat([split.x, split.x_test])
    assert torch.cdist(standardised, every).min() > 1e-4


def test_a_file_may_have_its_own(own, task, tmp_path):
    found = validation(str(own), root=tmp_path)
    assert found.split(0) is found.split(1)
    assert torch.equal(found.split(0).y_test, task.y_test)
    assert len(found.split(0).x) == 250
    assert "the data's own validation set, 80 examples" in found.about


def test_a_share_is_taken_instead_if_it_is_asked_for(npz, tmp_path, task):
    arrays = dict(np.load(npz))
    np.savez(npz, x_val=arrays["x_test"], y_val=arrays["y_test"], **arrays)
    assert len(validation(str(npz), root=tmp_path, share=0.5).split(0).x_test) == 125


def test_a_malformed_validation_set_is_named(own, tmp_path):
    arrays = dict(np.load(own))
    arrays["y_val"][3] = 9
    np.savez(own, **arrays)
    with pytest.raises(ValueError, match=r"y_val in own\.npz has the label 9 in row 3"):
        validation(str(own), root=tmp_path)


def test_a_folder_may_have_its_own(tmp_path):
    for part, count in {"train": 3, "val": 2, "test": 1}.items():
        for label in "ab":
            for number in range(count):
                path = tmp_path / "images" / part / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), color=(number, 0, count)).save(path)
    split = validation(str(tmp_path / "images"), root=tmp_path).split(0)
    assert (len(split.x), len(split.x_test)) == (6, 4)
    assert split.x_test[:, 2].unique().tolist() == [2]  # the colour of val


def test_the_number_of_a_recipe_is_a_limit_and_a_given_one_is_not(npz, tmp_path):
    assert validation(str(npz), root=tmp_path, usual=1000).examples == 250
    found = validation(str(npz), root=tmp_path, examples=100, usual=200)
    assert found.examples == 100
    assert len(found.split(0).x) + len(found.split(0).x_test) == 100
    with pytest.raises(ValueError, match="251 training examples were requested"):
        validation(str(npz), root=tmp_path, examples=251)


def test_examples_that_are_not_taken_stay_without_labels_and_none_of_them_is_validated(
    npz, tmp_path
):
    assert validation(str(npz), root=tmp_path, examples=100).split(0).unlabelled is None
    found = validation(str(npz), root=tmp_path, examples=100, unlabelled=True)
    whole = validation(str(npz), root=tmp_path, examples=250).split.data.x
    for seed in range(2):
        split = found.split(seed)
        parts = [rows(each) for each in (split.x, split.x_test, split.unlabelled)]
        assert [len(each) for each in parts] == [80, 20, 150]
        assert set.union(*parts) == rows(whole)  # so that they are disjoint, and no test examples


@pytest.mark.parametrize("examples", [100, None])
def test_what_a_long_tail_leaves_out_stays_without_labels(examples, npz, tmp_path):
    asked = {"examples": examples, "imbalance": 4, "unlabelled": True}
    split = validation(str(npz), root=tmp_path, share=0.2, **asked).split(0)
    parts = [rows(each) for each in (split.x, split.x_test, split.unlabelled)]
    assert len(parts[1]) == 0.2 * (examples or 250)
    assert len(parts[0]) < 0.8 * (examples or 250)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 250
    # As many as when the best trial is trained for the look at the test set, but for the split.
    run = Recipe(examples=examples, imbalance=4, ict_weight=1.0, ema=0.9)
    whole = reduced(npz_files.load(npz), run)
    assert len(whole.x) + len(whole.unlabelled) == 250
