"""The search space, the draws from it, and the file of the trials."""

import math
import sqlite3
from dataclasses import replace
from itertools import product

import optuna
import pytest

from manifold_mixup.lab.recipes.recipe import FOUND, Recipe
from manifold_mixup.lab.search import space as spaces
from manifold_mixup.lab.search.sampling import distributions, next_settings
from manifold_mixup.lab.search.space import Space, applied, around, layer_sets, settings_of
from manifold_mixup.lab.search.study import Trial, open_study

SPACE = Space((1e-3, 1e-1), (1e-4, 1e-2), (0.1, 2.0), (("input", "a"), ("a",)))
START = {"lr": 1e-2, "weight_decay": 1e-3, "alpha": 0.5, "layers": "input+a"}


def drawn(number, before=(), *, space=SPACE, start=START, sampler="tpe", seed=0):
    return next_settings(
        space, start, sampler=sampler, number=number, before=before, trials=40, seed=seed
    )


def history(count, *, space=SPACE):
    """Return trials that are better at small learning rates and at the second set of layers."""
    trials = []
    for number in range(count):
        settings = drawn(number, sampler="random", space=space)
        trials.append(
            optuna.trial.create_trial(
                params=settings,
                distributions=distributions(space, grid=False),
                value=settings["lr"] + 0.1 * (settings["layers"] == "input+a"),
            )
        )
    return trials


def test_a_grid_has_every_combination_in_order():
    expected = [
        dict(zip(("lr", "weight_decay", "alpha", "layers"), point, strict=True))
        for point in product((1e-3, 1e-1), (1e-4, 1e-2), (0.1, 2.0), ("input+a", "a"))
    ]
    assert SPACE.grid() == expected
    assert [drawn(number, sampler="grid") for number in range(16)] == expected
    assert Space((0.1,), (0.0,)).grid() == [{"lr": 0.1, "weight_decay": 0.0}]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_draws_are_within_bounds_and_short(sampler):
    before = history(12)
    for number in range(1, 20):
        settings = drawn(number, before, sampler=sampler)
        assert SPACE.contains(settings)
        assert all(float(f"{settings[name]:.3g}") == settings[name] for name in ("lr", "alpha"))


def test_a_draw_depends_on_seed_number_and_history_alone():
    before = history(15)
    assert drawn(15, before) == drawn(15, before)
    others = [drawn(16, before), drawn(15, before, seed=1), drawn(15, before[:11])]
    assert all(other != drawn(15, before) for other in others)
    assert drawn(15, before, sampler="random") == drawn(15, sampler="random")


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_at_random_all_ways_try_the_same_learning_rates(sampler):
    mixing = replace(SPACE, bandwidth=(0.1, 1.0))
    plain = Space(SPACE.lr, SPACE.weight_decay)
    for number in range(1, 10):
        one, other = (drawn(number, space=each, sampler=sampler) for each in (mixing, plain))
        assert one["lr"] == other["lr"]
        assert one["weight_decay"] == other["weight_decay"]


def test_tpe_learns_from_the_trials_before():
    before = history(30)
    after = [drawn(30, before, seed=seed) for seed in range(20)]
    chance = [drawn(31, sampler="random", seed=seed) for seed in range(20)]
    for better in (lambda one: one["layers"] == "a", lambda one: one["lr"] < 1e-2):
        assert sum(map(better, after)) > 4 + sum(map(better, chance))


def test_the_first_trial_is_the_start_if_it_is_in_the_space():
    assert drawn(0) == START
    outside = {**START, "lr": 1.0}
    assert SPACE.contains(drawn(0, start=outside))
    assert drawn(0, start={**START, "layers": "b"})["layers"] in ("input+a", "a")


def test_a_single_value_is_not_searched():
    space = replace(SPACE, lr=(0.02,), weight_decay=(0.0,))
    for number in range(1, 5):
        settings = drawn(number, space=space, start={**START, "lr": 9.0})
        assert (settings["lr"], settings["weight_decay"]) == (0.02, 0.0)


def test_the_space_is_around_the_recipe(task, plain):
    mixed = replace(plain, layers=("input", "hidden1"), alpha=10.0)
    assert around(plain, task, grid=False) == Space((0.005, 0.5), (1e-4, 0.1))
    assert around(mixed, task, grid=False).alpha == (0.05, 20.0)
    assert around(replace(plain, weight_decay=0.0), task, grid=False).weight_decay == (0.0,)
    assert around(mixed, task, grid=True).lr == (0.0167, 0.05, 0.15)


@pytest.mark.parametrize("run", [Recipe(model="mlp"), Recipe(model="mlp", layers=FOUND)])
def test_layers_are_those_of_the_recipe_hidden_ones_and_each_alone(run, task, monkeypatch):
    monkeypatch.setattr(
        spaces,
        "with_layers",
        lambda run, _: replace(run, layers=run.layers and ("input", "a", "b")),
    )
    assert layer_sets(replace(run, layers=FOUND), task) == (
        ("input", "a", "b"),
        ("a", "b"),
        ("a",),
        ("b",),
    )


def test_one_set_of_layers_is_not_repeated(task, plain):
    assert layer_sets(replace(plain, layers=("input",)), task) == (("input",),)
    assert layer_sets(replace(plain, layers=("hidden1",)), task) == (("hidden1",),)


def test_settings_go_into_a_recipe_and_back(plain):
    run = replace(plain, layers=("input", "hidden1"), alpha=0.3)
    assert applied(plain, settings_of(run)) == run
    assert applied(run, settings_of(plain)) == run  # no mixup says nothing about α


def test_a_trial_is_read_as_it_was_written(tmp_path):
    path, space = tmp_path / "study.db", distributions(SPACE, grid=False)
    good = Trial(START, 12.5, ({"error": 12.0}, {"error": 13.0}), 1.5)
    bad = Trial({**START, "lr": 0.05}, None, ({"error": float("nan")},), 0.5, "it diverged")
    asked = {"epochs": 3, "space": {"a": [1, 2]}}
    with open_study(path, asked=asked, ways=["a", "b"]) as study:
        study.add("a", good, space)
        study.add("a", bad, space)
        study.keep("look", [{"error": float("inf")}])
    with open_study(path, asked=asked, ways=["a", "b"]) as study:
        assert study.trials("a") == [good, replace(bad, scores=({"error": None},))]
        assert study.trials("b") == []
        assert study.found("look") == [{"error": None}]
        assert study.found("other") is None
    with pytest.raises(ValueError, match="epochs 3 there, 4 here; space a 1 2 there, 2 1 here"):
        open_study(path, asked={"epochs": 4, "space": {"a": [2, 1]}}, ways=["a"]).__enter__()


def test_a_study_that_was_killed_while_it_was_made_is_made_to_the_end(tmp_path):
    path = tmp_path / "study.db"
    with open_study(path, asked={"epochs": 3}, ways=["a", "b"]):
        pass
    with sqlite3.connect(path) as file:
        file.execute("DELETE FROM study_user_attributes WHERE study_id = 2")
    file.close()
    with open_study(path, asked={"epochs": 3}, ways=["a", "b"]) as study:
        assert study.trials("b") == []


@pytest.mark.parametrize("name", ["", "what?.db"])
def test_a_name_that_is_no_file_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"is a folder|cannot have '\?'"):
        open_study(tmp_path / name, asked={}, ways=["a"]).__enter__()


# Since Python 3.13, sqlite3 warns that Optuna leaves the damaged database open.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.filterwarnings("ignore:Exception ignored:pytest.PytestUnraisableExceptionWarning")
def test_a_damaged_study_is_refused(tmp_path):
    path = tmp_path / "study.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(200))
    with pytest.raises(ValueError, match="cannot be opened as a study of Optuna"):
        open_study(path, asked={}, ways=["a"]).__enter__()


TAUGHT = replace(SPACE, ema=(0.9, 0.999))


def test_the_decay_of_a_teacher_is_drawn_by_its_distance_to_1():
    """On the logarithmic scale of the decay itself a tenth of the draws lay above 0.99."""
    decays = [drawn(number, sampler="random", space=TAUGHT)["ema"] for number in range(1, 201)]
    assert all(0.9 <= decay <= 0.999 for decay in decays)
    assert 70 <= sum(decay > 0.99 for decay in decays) <= 130  # half are expected
    assert all(1 - decay == pytest.approx(float(f"{1 - decay:.3g}"), abs=1e-9) for decay in decays)


def test_trials_before_lead_to_better_decays():
    trials = []
    for number in range(1, 31):
        settings = drawn(number, sampler="random", space=TAUGHT)
        value = (math.log10(1 - settings["ema"]) + 2) ** 2  # best at 0.99
        found = distributions(TAUGHT, grid=False)
        trials.append(optuna.trial.create_trial(params=settings, distributions=found, value=value))
    kept = [dict(trial.params) for trial in trials]
    led = [drawn(31, trials, space=TAUGHT, seed=seed)["ema"] for seed in range(20)]
    by_chance = [drawn(31, sampler="random", space=TAUGHT, seed=seed)["ema"] for seed in range(20)]

    def far(decays):
        return sum(abs(math.log10(1 - decay) + 2) for decay in decays)

    assert far(led) < far(by_chance) / 2
    assert [dict(trial.params) for trial in trials] == kept  # what is in the file stays


def test_a_decay_that_is_not_searched_stays():
    assert drawn(3, space=replace(SPACE, ema=(0.99,)))["ema"] == 0.99
