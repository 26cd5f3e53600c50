"""The rounds of a task, and the table: equal budgets, no run twice, tests corrected by Holm."""

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import ttest_rel

from manifold_mixup.lab.candidates import rounds, trained
from manifold_mixup.lab.candidates.__main__ import main
from manifold_mixup.lab.candidates.explored import EXPLORED, TEXT_WAYS
from manifold_mixup.lab.candidates.registered import (
    CANDIDATES,
    INPUT,
    MANIFOLD,
    NONE,
    SEEDS,
    Candidate,
)
from manifold_mixup.lab.candidates.table import markdown, verdicts
from manifold_mixup.lab.data import spirals
from manifold_mixup.lab.evaluate.statistics import paired_difference, smallest_seen
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.training.method import check

TINY = Candidate(
    "tiny",
    "a test",
    lambda _, purpose, seed: spirals.load(
        per_class=8, held_out=8, seed=seed + 100 * (purpose == "confirmation")
    ),
    Recipe(data="spirals", model="spiral-mlp", width=4, epochs=2, batch=16),
    "nll",
    {
        NONE: ({"lr": 0.01}, {"lr": 0.1}),
        INPUT: ({"layers": ("input",), "alpha": 0.5}, {"layers": ("input",), "alpha": 2.0}),
        MANIFOLD: tuple({"layers": ("bottleneck",), "alpha": a} for a in (0.5, 2.0)),
    },
    tries=2,
)


@pytest.fixture
def folders(tmp_path):
    return {"root": tmp_path, "out": tmp_path / "out"}


def test_development_freezes_the_best_of_each_way(folders):
    assert rounds.develop(TINY, **folders)
    rows = trained.read(folders["out"] / "tiny-development.json")
    assert len(rows) == 3 * 2 * 2
    frozen = rounds.frozen_settings(folders["out"] / rounds.FROZEN)["tiny"]
    for way, trials in TINY.trials.items():
        means = [
            sum(r["last"]["nll"] for r in rows if (r["way"], r["settings"]) == (way, settings)) / 2
            for settings in json.loads(json.dumps(trials))
        ]
        assert frozen[way] == trials[means.index(min(means))]


def test_confirmation_resumes_and_repeats_nothing(folders):
    rounds.develop(TINY, **folders)
    left = iter([False] * 4)
    assert not rounds.confirm(TINY, **folders, should_stop=lambda: next(left, True))
    path = folders["out"] / "tiny.json"
    before = path.read_text()
    rows = trained.read(path)
    assert [(row["way"], row["seed"]) for row in rows] == [
        (NONE, 0), (INPUT, 0), (MANIFOLD, 0), (NONE, 1),
    ]  # fmt: skip
    assert len({row["data"] for row in rows}) == 2  # one draw for all ways of a seed
    assert not rounds.confirm(TINY, **folders, should_stop=lambda: True)
    assert path.read_text() == before


def test_nothing_is_confirmed_before_settings_are_frozen(folders):
    with pytest.raises(ValueError, match="no settings are frozen for tiny"):
        rounds.confirm(TINY, **folders)
    later = replace(TINY, name="later", settings_of="tiny")
    with pytest.raises(ValueError, match="no settings are frozen for tiny"):
        rounds.confirm(later, **folders)
    assert rounds.develop(later, **folders)  # it has none of its own
    assert not folders["out"].exists()


def test_frozen_settings_stay(folders):
    rounds.develop(TINY, **folders)
    rows = trained.read(folders["out"] / "tiny-development.json")
    chosen = rounds.best(TINY, NONE, rows)
    for row in rows:
        if row["way"] == NONE and row["settings"] == chosen:
            row["last"]["nll"] = 99.0
    with pytest.raises(ValueError, match="other settings are frozen for tiny"):
        rounds.freeze(TINY, rows, folders["out"] / rounds.FROZEN)


def test_a_trial_that_diverged_is_out(folders):
    wild = replace(TINY, trials={**TINY.trials, NONE: ({"lr": 1e20}, {"lr": 0.01})}, tries=1)
    rounds.develop(wild, **folders)
    rows = trained.read(folders["out"] / "tiny-development.json")
    assert "A learning rate below 1e+20" in rows[0]["diverged"]
    assert rounds.best(wild, NONE, rows) == {"lr": 0.01}
    with pytest.raises(ValueError, match="all trials of no mixup diverged in tiny"):
        rounds.best(replace(wild, trials={NONE: ({"lr": 1e20},)}), NONE, rows)


def write(out, name, gaps, *, base=1.0):
    """Write results in which manifold mixup differs from its control by the gaps."""
    values = {NONE: 0.5, INPUT: 0.0}
    rows = [
        {
            "way": way,
            "settings": {},
            "seed": s,
            "last": {"nll": base + s + values.get(way, gap), "error": 50.0},
        }
        for s, gap in enumerate(gaps)
        for way in (NONE, INPUT, MANIFOLD)
    ]
    rows = [row | {"best": row["last"]} for row in rows]
    out.mkdir(exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"runs": rows}))


def test_the_tests_are_those_of_scipy_corrected_by_holm(tmp_path):
    gaps = {"a": [-0.3, -0.2, -0.4, -0.3], "b": [0.2, 0.3, 0.2, 0.4], "c": [-0.1, 0.2, -0.2, 0.0]}
    for name, values in gaps.items():
        write(tmp_path, name, values)
    tasks = [replace(TINY, name=name) for name in (*gaps, "not-run")]
    found = verdicts(tasks, tmp_path)
    p = [ttest_rel(values, [0.0] * 4).pvalue for values in gaps.values()]
    assert [one.p for one in found] == pytest.approx([*p, 1.0])
    order = sorted(p)
    expected = [4 * order[0], max(4 * order[0], 3 * order[1]), min(2 * order[2], 1.0)]
    adjusted = dict(zip(order, expected, strict=True))
    assert [one.adjusted for one in found] == pytest.approx([*(adjusted[v] for v in p), 1.0])
    assert [one.survives for one in found] == [True, False, False, False]  # b is worse
    assert found[0].helps
    mine = paired_difference(gaps["a"], [0.0] * 4)
    assert found[0].gap.low == pytest.approx(mine.low)


def test_only_seeds_that_all_ways_have_finished_count(tmp_path):
    write(tmp_path, "tiny", [-0.3, -0.2, -0.4])
    path = tmp_path / "tiny.json"
    rows = json.loads(path.read_text())["runs"][:-1]
    path.write_text(json.dumps({"runs": rows}))
    (found,) = verdicts([TINY], tmp_path)
    assert found.seeds == (0, 1)
    assert found.gap.n == 2


def test_the_table_reports_all_tasks(tmp_path):
    write(tmp_path, "tiny", [-0.30, -0.20, -0.40, -0.31])
    text = markdown(verdicts([TINY, replace(TINY, name="other")], tmp_path))
    assert "| tiny | NLL | 4 | **−0.3025 [−0.4" in text
    assert "| other | NLL | 0 | not run | 1 | 1 | no |  |  |" in text
    seen = smallest_seen(paired_difference([-0.30, -0.20, -0.40, -0.31], [0.0] * 4))
    assert f"| {seen:.4f} |" in text
    assert "| manifold mixup | 2.1975 ± 1.2" in text
    assert "| last epoch, n = 4 | NLL ↓ | difference to no mixup | error % ↓ | NLL ↓, best" in text
    assert "| no mixup | 3.0000 ± 1.2910 |  | 50.00 ± 0.00 | 3.0000 ± 1.2910 |" in text


def test_the_table_names_the_machine(folders):
    rounds.develop(TINY, **folders)
    left = iter([False] * 6)
    rounds.confirm(TINY, **folders, should_stop=lambda: next(left, True))
    (found,) = verdicts([TINY], folders["out"])
    (where,) = found.where
    assert f"one thread, PyTorch {torch.__version__.partition('+')[0]}" in where
    assert where in markdown([found])


def test_a_single_seed_is_no_test(tmp_path):
    write(tmp_path, "tiny", [-0.3])
    (found,) = verdicts([TINY], tmp_path)
    assert (found.p, found.gap, found.survives) == (1.0, None, False)
    assert math.isnan(found.spreads["last"][NONE].std)
    assert "not run" not in markdown([found]) or found.seeds == (0,)


@pytest.mark.parametrize("candidate", [*CANDIDATES, *EXPLORED], ids=lambda one: one.name)
def test_a_registered_task(candidate):
    """All ways have as many trials, and only settings that a recipe has."""
    assert len({len(trials) for trials in candidate.trials.values()}) == 1
    assert next(iter(candidate.trials)) == NONE
    assert candidate.control in candidate.trials
    assert MANIFOLD in candidate.trials
    assert len(SEEDS) == 10
    for way, trials in candidate.trials.items():
        runs = [candidate.recipe(way, trial, 3) for trial in trials]
        assert len(set(runs)) == len(trials)
        assert all(run.seed == 3 and run.method == way for run in runs)
        assert all(bool(run.layers) == (way != NONE) for run in runs)


_PHOTOS = pytest.param("photos-10", marks=pytest.mark.thorough)  # a large network


@pytest.mark.parametrize("name", ["spirals", "mnist-narrow", "mnist-1d", "california", _PHOTOS])
def test_its_layers_can_be_mixed(name):
    (candidate,) = (one for one in CANDIDATES if one.name == name)
    shape = {"spirals": (2,), "mnist-1d": (40,), "california": (8,), "photos-10": (3, 80, 80)}
    x = torch.rand(40, *shape.get(name, (1, 28, 28)))
    regression = candidate.metric == "rmse"
    y = x.flatten(1)[:, 0] if regression else torch.arange(40) % 20
    data = spirals.load()
    data = replace(data, x=x, y=y, x_test=x, y_test=y, classes=0 if regression else 20)
    for way, trials in candidate.trials.items():
        for trial in trials:
            run = replace(candidate.recipe(way, trial, 0), weights=None, width=4)
            check(replace(run, width=8) if name == "mnist-narrow" else run, data)


def test_the_command_line(tmp_path, capsys):
    assert main(["table", "--out", str(tmp_path)]) == 0
    assert "| photos-25 | error % | 0 | not run |" in capsys.readouterr().out
    assert (tmp_path / "table.md").exists()
    assert main(["develop", "spiral"]) == 2
    assert "Did you mean" in capsys.readouterr().err
    arguments = ["--out", str(tmp_path), "--root", str(tmp_path), "--minutes", "0"]
    assert main(["develop", "spirals", *arguments]) == 1
    assert "The time is up. The same command resumes, with spirals." in capsys.readouterr().out


def test_an_explored_task_has_a_table_of_its_own_without_tests(tmp_path, capsys):
    rows = [
        {"way": way, "settings": {}, "seed": s, "last": {"error": 9.0 + s + n, "nll": 0.5}}
        for s in range(3)
        for n, way in enumerate(TEXT_WAYS.trials)
    ]
    (tmp_path / f"{TEXT_WAYS.name}.json").write_text(json.dumps({"runs": rows}))
    assert main(["table", TEXT_WAYS.name, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "| embedding mixup | 11.00 ± 1.00 | +1.00 [all seeds alike] | 0.5000 ± 0.0000 |" in text
    assert "Holm" not in text
    assert not (tmp_path / "table.md").exists()
    assert main(["table", "spirals", TEXT_WAYS.name, "--out", str(tmp_path)]) == 0
    assert "Holm" in (tmp_path / "table.md").read_text()
