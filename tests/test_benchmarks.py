"""The tables and errors of the benchmarks; times are not tested."""

import runpy
import sys
from dataclasses import asdict
from functools import partial

import pytest
import torch
from benchmarks import counts, memory, tables
from benchmarks.tasks import mlp
from benchmarks.turns import FEWEST, WIDE, Timing, Way, compare

CLEAR = Timing("ours", FEWEST, 1.0, 1.5, 1.5 - 0.4 * WIDE, 1.5 + 0.4 * WIDE)
WIDER = Timing("ours", FEWEST, 1.0, 1.5, 1.5 - WIDE, 1.5 + WIDE)
HASTY = Timing("ours", FEWEST - 1, 1.0, 1.5, 1.5, 1.5)


@pytest.mark.parametrize(
    ("timing", "fault"), [(CLEAR, ""), (WIDER, "too wide"), (HASTY, "too few rounds")]
)
def test_a_ratio_is_given_only_where_it_is_one(timing, fault):
    text = tables._timings([asdict(timing)])
    assert timing.fault == fault
    assert not fault or fault in text
    assert ("| 1.500 (" in text) == (not fault)


def test_ways_take_turns_and_are_compared_with_the_first():
    ran = []
    ways = {name: Way(lambda name=name: ran.append(name)) for name in ("a", "b")}
    ways["c"] = Way(ran.append, prepare=lambda: "c")
    first, *others = compare(ways, 0)
    assert (first.ratio, first.rounds) == (1.0, 1)
    assert [one.name for one in others] == ["b", "c"]
    rounds = [
        sorted(ran[k : k + 3]) for k in range(3, len(ran), 3)
    ]  # after three runs to estimate the duration
    assert rounds == [["a", "b", "c"]] * 3


def test_counts_that_grow_are_named():
    cost = {"calls": 52, "allocated": 2 * counts.STATE, "peak": counts.STATE, "reads": 2}
    found = {"beyond": dict.fromkeys((1, 3, 12), cost), "state": counts.STATE, "graphs": 3}
    assert counts.broken(found) == []
    for name in cost:
        grown = dict.fromkeys((1, 3, 12), cost | {name: 10 * cost[name]})
        (rule,) = counts.broken(found | {"beyond": grown})
        assert str(10 * cost[name]) in rule
    (rule,) = counts.broken(found | {"beyond": {1: cost, 3: cost, 12: cost | {"calls": 53}}})
    assert rule.startswith("they grow with the eligible layers")
    (rule,) = counts.broken(found | {"graphs": 0})
    assert rule.startswith("0 graphs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["speed"], "no part 'speed'. Known: counts, imports, look, memory, mix, peers"),
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
