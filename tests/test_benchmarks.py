"""The tables and errors of the benchmarks; times are not tested."""

import importlib
import itertools
import json
import runpy
import shutil
import sys
from dataclasses import asdict, replace
from functools import partial

import pytest
import torch
from benchmarks import campaign, counts, memory, tables, turns, ways
from benchmarks.tasks import mlp
from benchmarks.training import images
from benchmarks.turns import FEWEST, WIDE, Timing, Way, added, compare

from manifold_mixup import MixedTarget, MixPlan, mix
from manifold_mixup.lab.recipes.recipe import Recipe

CLEAR = Timing("ours", FEWEST, 1.0, 1.5, 1.5 - 0.4 * WIDE, 1.5 + 0.4 * WIDE)
WIDER = Timing("ours", FEWEST, 1.0, 1.5, 1.5 - WIDE, 1.5 + WIDE)
HASTY = Timing("ours", FEWEST - 1, 1.0, 1.5, 1.5, 1.5)
SURE = replace(WIDER, interval=(1.5 - 0.4 * WIDE, 1.5 + 0.4 * WIDE))
UNSURE = replace(CLEAR, interval=(1.5 - WIDE, 1.5 + WIDE))


@pytest.mark.parametrize(
    ("timing", "fault"),
    [
        (CLEAR, ""),
        (WIDER, "too wide"),
        (HASTY, "too few rounds"),
        (SURE, ""),
        (UNSURE, "too wide"),
    ],
)
def test_a_ratio_is_given_only_where_it_is_one(timing, fault):
    text = tables._timings([asdict(timing)])
    assert timing.fault == fault
    assert not fault or fault in text
    assert ("| 1.500 (" in text) == (not fault)


def test_ways_take_turns_and_are_compared_with_the_first():
    ran = []
    timed = {name: Way(lambda name=name: ran.append(name)) for name in ("a", "b")}
    timed["c"] = Way(ran.append, prepare=lambda: "c")
    first, *others = compare(timed, 0)
    assert (first.ratio, first.rounds) == (1.0, 1)
    assert [one.name for one in others] == ["b", "c"]
    rounds = [
        sorted(ran[k : k + 3]) for k in range(3, len(ran), 3)
    ]  # after three runs to estimate the duration
    assert rounds == [["a", "b", "c"]] * 3


def test_additions_are_those_to_the_plain_step_in_units_of_the_reference(monkeypatch):
    clock = [0.0]

    def taking(seconds):
        return Way(lambda: clock.append(clock[-1] + seconds))

    monkeypatch.setattr(turns.time, "process_time", lambda: clock[-1])
    ways = {"plain": taking(5.0), "one": taking(6.0), "two": taking(9.0)}
    one, two = added(ways, 0, plain="plain", reference="one")
    assert (one.name, one.ratio, one.milliseconds) == ("one", 1, 1000)
    assert (two.name, two.ratio, two.milliseconds) == ("two", 4, 4000)


@pytest.mark.parametrize(("n", "rank"), [(6, 1), (10, 2), (17, 5), (50, 18), (100, 40)])
def test_the_interval_of_a_median_is_that_of_the_tables(n, rank):
    """Ranks of the 95 % interval, as tables of the sign test have them, for any distribution."""
    values = [k**3 for k in range(n, 0, -1)]
    assert turns.interval_of_median(values) == (rank**3, (n + 1 - rank) ** 3)


def test_counts_that_grow_are_named():
    cost = {"calls": 24, "allocated": 2 * counts.STATE, "peak": counts.STATE, "reads": 1}
    found = {
        "beyond": dict.fromkeys((1, 3, 12), cost),
        "ways": {"Cut()": cost},
        "state": counts.STATE,
        "graphs": 3,
    }
    assert counts.broken(found) == []
    for name in cost:
        grown = dict.fromkeys((1, 3, 12), cost | {name: 10 * cost[name]})
        (rule,) = counts.broken(found | {"beyond": grown})
        assert str(10 * cost[name]) in rule
    for name in cost:
        (rule,) = counts.broken(found | {"ways": {"Cut()": cost | {name: 10 * cost[name]}}})
        assert rule.startswith(f"Cut(): {10 * cost[name]} ")
    (rule,) = counts.broken(found | {"beyond": {1: cost, 3: cost, 12: cost | {"calls": 25}}})
    assert rule.startswith("they grow with the eligible layers")
    (rule,) = counts.broken(found | {"graphs": 0})
    assert rule.startswith("0 graphs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["speed"],
            "no part 'speed'. Known: counts, adapters, fixed, imports, look, memory, mix, peers",
        ),
        pytest.param(
            ["--device", "cuda"],
            "this PyTorch finds no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one"),
        ),
    ],
)
def test_what_is_not_there_is_an_error(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("benchmarks", run_name="__main__")
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_mixing_adds_at_most_one_state_to_the_peak_of_a_step():
    batch, state = 64, 64 * 512 * 4
    plain, *mixed = memory.peaks(partial(mlp, batch), "cpu").values()
    assert plain > 12 * state  # saved by twelve hidden layers for the backward pass
    assert len(mixed) == 3
    assert all(0 <= peak - plain <= 1.05 * state for peak in mixed)


def test_tables_of_accuracy_say_how_many_seeds_came_to_the_target():
    row = {"method": "no mixup", "seconds": [7.0, 9.0], "last": [1.5, 2.5], "best": [1.0, 2.0]}
    found = {"a task": {"target": 2.0, "recipe": {"epochs": 15}, "rows": [row]}}
    text = "\n".join(tables._accuracy(found))
    assert "| no mixup | 8.0 ± 1.4 | 2.00 ± 0.71 | 1.50 ± 0.71 | 1 of 2 |" in text


def test_tables_of_ways_give_copies_and_the_steps_beside_them():
    timings = [asdict(replace(CLEAR, name="copy", ratio=1.0)), asdict(replace(CLEAR, name="Cut"))]
    settings = {"shape": "32 x 32", "dtype": "float32", "layout": "contiguous", "mode": "eager"}
    cells = [settings | {"phase": phase, "timings": timings} for phase in ("forward", "backward")]
    side = {"shape": "32 x 32", "batch": 128, "timings": timings}
    text = "\n".join(tables._ways("Ways", {"cells": cells, "inputs": [side]}))
    assert "|  | 32 x 32 forward | 32 x 32 backward |" in text
    assert "| Cut | 1.50 | 1.50 |" in text
    assert "128 x 3 x 32 x 32 (5 rounds)" in text
    assert list(tables._ways("Ways", {"cells": [], "inputs": []})) == []


def test_the_plans_of_the_ways_are_mixed_in_a_state_of_their_layout():
    state = ways._State((4, 3, 8, 8), torch.float32, "channels last", 1, "cpu")
    for phase in ("forward", "backward"):
        for name, way in state.ways("eager", phase).items():
            made = way.run(*(() if way.prepare is None else (way.prepare(),)))
            found = made[0] if isinstance(made, tuple) else made
            assert found.stride() == state.x.stride(), name


def test_a_step_at_the_input_is_that_of_its_parts():
    """Both our steps mix by the same formula; here with everything kept, so that all agree."""
    x, y = torch.randn(4, 3, 8, 8), torch.arange(4) % 3
    model = ways.Small()
    plan = MixPlan("input", 1.0, torch.arange(4), weight=torch.ones(1, 8, 8, dtype=torch.bool))
    expected = torch.nn.functional.cross_entropy(model(x), y)
    mixed = mix(x, plan, dims=(2, 3))
    assert MixedTarget(y, plan).loss(torch.nn.CrossEntropyLoss(), model(mixed)) == expected
    for step in (ways._torchvision, ways._attached, ways._by_values, ways._plain):
        assert step(model, x, y)().isfinite()


def test_tables_of_training_give_images_a_second():
    timing = asdict(Timing("ours", FEWEST, 50.0, 1.0, 0.99, 1.01))
    found = {"bf16": {"timings": [timing], "batch": 100, "loader_milliseconds": 0.4}}
    assert "| ours | 50.0 | 2,000 | 1.000 (" in "\n".join(tables._training(found))


def test_tables_of_memory_give_what_is_added():
    found = {"a model": {"plain step": 200_000_000, "a": 210_000_000, "b": 200_000_000, "c": 1e8}}
    (line,) = [line for line in "\n".join(tables._memory(found)).splitlines() if "a model" in line]
    assert (
        line == "| a model | 200 MB | +10.0 MB (+5.0 %) | +0.0 MB (+0.0 %) | -100.0 MB (-50.0 %) |"
    )


def test_a_campaign_takes_the_longest_schedule_that_fits():
    speed = campaign.Speed(epoch=2.0, start=10.0, cuda_graphs=False)
    assert speed.epochs(9 * 50.0, runs=9) == 20
    assert speed.epochs(1e6, runs=9) == 200
    with pytest.raises(ValueError, match="9 runs in 90 s leave 10 s each, but a run takes 10 s"):
        speed.epochs(90.0, runs=9)


@pytest.fixture
def quick_campaign(monkeypatch):
    """Without measurements and attacks, which take seconds."""
    quick = campaign.Speed(epoch=0.1, start=0.0, cuda_graphs=False)
    monkeypatch.setattr(campaign, "measured", lambda *_, **__: quick)
    monkeypatch.setattr(campaign, "ATTACKED", ("confidence",))


@pytest.mark.usefixtures("quick_campaign")
def test_a_campaign_is_stopped_resumed_and_written_without_weights(tmp_path, monkeypatch, capsys):
    arguments = [str(tmp_path), "--rehearse", "--seeds", "1", "--total", "0.0125"]
    results = tmp_path / "results"
    clock = itertools.count()  # each look at the clock takes a second, and there is one a step
    monkeypatch.setattr(campaign.time, "monotonic", lambda: float(next(clock)))
    assert campaign.main([*arguments, "--minutes", str(5 / 60)]) == 1
    assert "no mixup, seed 0 was stopped in epoch 2." in capsys.readouterr().out
    (checkpoint,) = tmp_path.glob("runs/*/checkpoint.safetensors")
    assert not (results / "table.md").exists()
    # The plan of the first call stays, whatever time the others have.
    assert campaign.main([*arguments[:-1], "9", "--minutes", "9"]) == 0
    assert "3 runs of 2 epochs" in capsys.readouterr().out
    assert not checkpoint.exists()
    table = (results / "table.md").read_text()
    assert "| 1 seed | no mixup | input mixup | manifold mixup |" in table
    assert "a rehearsal whose numbers mean nothing" in table
    kept = {path.name for path in results.rglob("*") if path.is_file()}
    assert {"result.json", "logits.safetensors", "metrics.jsonl", "recipe.json"} < kept
    assert not {"last.safetensors", "best.safetensors", "checkpoint.safetensors"} & kept
    runs = [json.loads(path.read_text())["run"] for path in results.rglob("recipe.json")]
    assert {run["seed"] for run in runs} == {0}
    assert len(runs) == 3
    mixing = ("method", "layers", "alpha", "seed")
    (shared,) = {json.dumps({k: v for k, v in run.items() if k not in mixing}) for run in runs}
    assert json.loads(shared)["epochs"] == 2
    assert campaign.main([*arguments, "--epochs", "3"]) == 2
    assert "plan.json is the plan of another campaign: {'of': {" in capsys.readouterr().err


@pytest.mark.usefixtures("quick_campaign")
def test_a_campaign_goes_on_with_more_seeds_on_a_machine_that_has_only_the_results(
    tmp_path, capsys
):
    first, second = tmp_path / "first", tmp_path / "second"
    arguments = ["--rehearse", "--epochs", "1", "--seeds"]
    assert campaign.main([str(first), *arguments, "1"]) == 0
    shutil.copytree(first / "results", second / "results")
    capsys.readouterr()
    assert campaign.main([str(second), *arguments, "2"]) == 0
    assert "seed 0" not in capsys.readouterr().out
    assert len([*(second / "runs").iterdir()]) == 3
    assert "| 2 seeds |" in (second / "results" / "table.md").read_text()


@pytest.mark.usefixtures("quick_campaign")
def test_a_run_or_an_attack_that_fails_costs_a_campaign_only_itself(tmp_path, monkeypatch):
    def failing(run, *args, **options):
        if run.method == "input mixup":
            raise FloatingPointError("the loss is nan")
        return train(run, *args, **options)

    def without_memory(*args, battery, **options):
        if "confidence" in battery:
            raise torch.cuda.OutOfMemoryError("too large")
        return evaluated(*args, battery=battery, **options)

    train, evaluated = campaign.train, campaign.evaluated
    arguments = [str(tmp_path), "--rehearse", "--epochs", "1", "--seeds", "1"]
    monkeypatch.setattr(campaign, "train", failing)
    monkeypatch.setattr(campaign, "evaluated", without_memory)
    assert campaign.main(arguments) == 1
    results = tmp_path / "results"
    ((name, why),) = json.loads((results / "failed.json").read_text()).items()
    assert "input_mixup" in name
    assert why == "FloatingPointError: the loss is nan"
    complete = [json.loads(path.read_text()) for path in results.glob("*/complete.json")]
    assert complete == [{"failed": {"confidence": "OutOfMemoryError: too large"}}] * 2
    assert len([*results.glob("*/evaluation-last-*.json")]) == 2
    monkeypatch.setattr(campaign, "train", train)
    assert campaign.main(arguments) == 0
    assert json.loads((results / "failed.json").read_text()) == {}
    assert (results / "table.md").exists()


@pytest.mark.usefixtures("quick_campaign")
def test_what_a_campaign_trained_is_kept_if_no_time_is_left_to_evaluate_it(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "evaluated", lambda *_, **__: pytest.fail("the time was over"))
    clock = itertools.count()
    monkeypatch.setattr(campaign.time, "monotonic", lambda: float(next(clock)))
    arguments = [str(tmp_path), "--rehearse", "--epochs", "1", "--seeds", "1"]
    assert campaign.main([*arguments, "--minutes", str(5 / 60)]) == 1
    assert [*tmp_path.glob("results/*/logits.safetensors")]
    assert not [*tmp_path.glob("results/*/complete.json")]


def test_the_measurements_of_a_gpu_go_on_where_they_were_killed(tmp_path, monkeypatch):
    gpu = importlib.import_module("benchmarks.gpu")
    sys.modules.pop("benchmarks.__main__")  # which it imports, and other tests run
    done, told = [], tmp_path / "gpu.json"

    def part(name):
        def run(device, quick):
            done.append(name)
            if name == "killed" and done.count(name) == 1:
                raise KeyboardInterrupt
            if name == "failing" and done.count(name) == 1:
                raise RuntimeError("out of memory")
            return {"of": name}

        return run

    names = ("failing", "first", "killed", "last")
    monkeypatch.setattr(gpu, "PARTS", {name: part(name) for name in names})
    with pytest.raises(KeyboardInterrupt):
        gpu.main([str(tmp_path), "--rehearse"])
    assert json.loads(told.read_text())["failing"] == {"failed": "RuntimeError: out of memory"}
    assert json.loads(told.read_text())["not_begun"] == ["killed", "last"]
    gpu.main([str(tmp_path), "--rehearse"])
    assert done == ["failing", "first", "killed", "failing", "killed", "last"]
    found = json.loads(told.read_text())
    assert [found[name] for name in names] == [{"of": name} for name in names]
    monkeypatch.setattr(gpu.provenance, "describe", lambda: {"git": "another commit"})
    gpu.main([str(tmp_path), "--rehearse"])
    assert done[6:] == [*names]


def test_the_runs_of_a_campaign_are_paired_by_seed():
    base = Recipe(data="cifar-10", model="preact-resnet18", device="cuda", compile=True)
    plan = campaign.Plan(7, 2, campaign.Speed(1.0, 1.0, cuda_graphs=True), of={})
    runs = campaign.runs_of(plan, base)
    ways = ["no mixup", "input mixup", "manifold mixup"]
    assert [(run.seed, run.method) for run in runs] == [(s, way) for s in (0, 1) for way in ways]
    assert {(run.epochs, run.cuda_graphs) for run in runs} == {(7, True)}


def test_a_campaign_without_time_is_an_error(tmp_path, monkeypatch, capsys):
    slow = campaign.Speed(epoch=99.0, start=9.0, cuda_graphs=False)
    monkeypatch.setattr(campaign, "measured", lambda *_, **__: slow)
    assert campaign.main([str(tmp_path), "--rehearse", "--total", "1"]) == 2
    assert "error: 9 runs in 54 s leave 6 s each, but a run takes 9 s" in capsys.readouterr().err


def test_a_campaign_whose_cuda_graphs_fail_goes_on_without(monkeypatch):
    def measured(run, data):
        if run.cuda_graphs:
            raise RuntimeError("no graphs here")
        return campaign.Speed(1.0, 1.0, cuda_graphs=False)

    monkeypatch.setattr(campaign, "measured", measured)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    base = Recipe(data="cifar-10", model="preact-resnet18", compile=True, device="cuda")
    plan = campaign.planned(base, images(4), seconds=600, seeds=2)
    assert plan.speed.cuda_graphs is False
    assert plan.tried[0] == {"cuda_graphs": True, "failed": "RuntimeError: no graphs here"}
    assert plan.epochs == 88  # (540 s / 6 runs - 1 s) / 1 s, less the time of the measurement
    assert plan.on["gpu"] == "a GPU"
    assert all(not run.cuda_graphs for run in campaign.runs_of(plan, base))
