"""Every way of mixing is a recipe of its own, and older recipes keep their identity."""

import json
import re
from dataclasses import asdict, fields, replace

import pytest

from manifold_mixup.lab.recipes import catalog
from manifold_mixup.lab.recipes import recipe as recipes
from manifold_mixup.lab.recipes.check import check_recipe, way_of
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.recipes.ways import WAYS
from manifold_mixup.lab.runs.folder import folder_name
from manifold_mixup.lab.runs.result import read_run

MIXING = [name for name in WAYS if name != "none"]
AUTHORS = {
    "remix": {"alpha": 1.0, "layers": ("input",), "kappa": 3.0, "tau": 0.5},
    "c-mixup": {"alpha": 2.0, "pairs": "near"},
    "regmixup": {"alpha": 10.0, "clean": True},
    "cutmix": {"alpha": 1.0, "p": 0.5, "layers": ("input",)},
    "patchup-soft": {"alpha": 2.0, "block": 7, "share": 0.75, "p": 1.0},
    "patchup-hard": {"alpha": 2.0, "block": 7, "share": 0.5, "p": 0.7},
    "nfm": {"alpha": 1.0, "noise_add": 0.4, "noise_multiply": 0.2},
    "sk-mixup": {"tau_max": 1.0, "tau_std": 0.5},
    "mixup-cutmix": {"alpha": 0.8, "p": 1.0, "layers": ("input",)},
    "alignmixup": {"alpha": 2.0},
}


@pytest.mark.parametrize("mixing", WAYS)
@pytest.mark.parametrize(("recipe", "data"), [("compare", "mnist-1d"), ("modern", "cifar-100")])
def test_a_way_is_what_its_name_says_and_survives_json(recipe, data, mixing):
    run = catalog.recipe(recipe, mixing, data, "cnn")
    check_recipe(run)
    assert way_of(run) == run.method == WAYS[mixing].method
    assert read_run(json.loads(json.dumps(asdict(run)))) == run


@pytest.mark.parametrize("mixing", AUTHORS)
def test_a_way_has_its_authors_values(mixing):
    run = catalog.recipe("compare", mixing, "mnist-1d", "cnn")
    assert {name: getattr(run, name) for name in AUTHORS[mixing]} == AUTHORS[mixing]


def test_regmixup_has_another_alpha_on_cifar_10():
    alphas = [catalog.recipe("modern", "regmixup", d, "cnn").alpha for d in ("cifar-10", "svhn")]
    assert alphas == [20.0, 10.0]


@pytest.mark.parametrize("mixing", MIXING)
def test_ways_differ_in_nothing_but_the_mixing(mixing):
    plain = catalog.recipe("compare", "none", "fashion-mnist", "cnn")
    run = catalog.recipe("compare", mixing, "fashion-mnist", "cnn")
    way = WAYS[mixing]
    own = {"method", "layers", "alpha", *way.makes, *way.defaults}
    assert replace(run, **{name: getattr(plain, name) for name in own}) == plain


def test_alignmixup_is_at_the_last_map():
    run = catalog.recipe("compare", "alignmixup", "fashion-mnist", "cnn")
    assert run.layers == ("input", "stage3")


def test_no_two_ways_share_a_method():
    assert len({way.method.lower() for way in WAYS.values()}) == len(WAYS)


# Older runs


def test_an_older_run_keeps_its_folder():
    """The names were given by commit 48886af."""
    plain = Recipe()
    assert folder_name(plain) == "mnist_1d-mlp-no_mixup-seed_0-6fb5ddd5"
    assert (
        folder_name(recipes.manifold_mixup(plain)) == "mnist_1d-mlp-manifold_mixup-seed_0-c5af9b97"
    )


def test_an_older_recipe_loads_with_the_defaults_of_what_it_lacks():
    later = set(recipes._LATER)
    older = {name: value for name, value in asdict(Recipe(lr=0.5)).items() if name not in later}
    assert read_run(older) == Recipe(lr=0.5)


def test_another_value_of_a_later_setting_is_another_run():
    assert later_names() <= {one.name for one in fields(Recipe)}
    for name, value in {"p": 0.5, "pairs": "near", "clean": True, "bandwidth": 2.0}.items():
        assert folder_name(Recipe(**{name: value})) != folder_name(Recipe())


def later_names():
    return set(recipes._LATER)


# What is refused

MIXED = Recipe(method="mine", layers=("input", "hidden1"))
BAD = {
    "p": (0.0, "p is 0.0. Expected more than 0, and at most 1."),
    "share": (1.5, "share is 1.5. Expected more than 0"),
    "bandwidth": (0.0, "bandwidth is 0.0. Expected a finite number above 0."),
    "kappa": (1.0, "kappa is 1.0. Expected a finite number above 1."),
    "tau": (-0.1, "tau is -0.1. Expected a number from 0 to 1."),
    "block": (4, "block is 4. Expected an odd number, such as 7."),
    "noise_add": (float("nan"), "noise_add is nan. Expected a finite number, 0 or more."),
    "tau_std": (float("inf"), "tau_std is inf. Expected a finite number above 0."),
}


@pytest.mark.parametrize("name", BAD)
def test_a_number_out_of_range(name):
    value, reason = BAD[name]
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_recipe(replace(MIXED, **{name: value}))
    check_recipe(MIXED)


def test_a_way_without_a_layer_is_refused():
    reason = "pairs is 'near', but no layer is mixed. Name the layers (--layers)"
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_recipe(Recipe(method="mine", pairs="near"))


@pytest.mark.parametrize(
    "other",
    [{"pairs": "same_class"}, {"label": "remix"}, {"blend": "cut"}, {"p": 0.5},
     {"per_sample": True}, {"noise_add": 0.1}],
)  # fmt: skip
def test_clean_goes_with_plain_interpolation_only(other):
    (name,) = other
    with pytest.raises(ValueError, match=f"clean is True, .* but {name} is "):
        check_recipe(replace(MIXED, clean=True, **other))


@pytest.mark.parametrize(
    ("method", "settings", "reason"),
    [
        ("CutMix", {"blend": "interpolate"}, "with layers input it is input mixup"),
        ("input mixup", {"blend": "cut"}, "with layers input, blend cut it is CutMix"),
        ("Remix", {"label": "remix", "pairs": "same_class"}, "it is another way of mixing"),
        ("CutMix", {"blend": "cut", "layers": ("stage1",)}, "it is manifold CutMix"),
    ],
)
def test_a_method_that_says_another_way(method, settings, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_recipe(replace(MIXED, **{"method": method, "layers": ("input",), **settings}))


def test_remix_may_mix_hidden_layers():
    check_recipe(replace(MIXED, method="Remix", label="remix"))
