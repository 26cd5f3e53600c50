"""The code of the README and the documentation runs, and CI runs the README's commands."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LAB = (ROOT / "docs" / "lab.md").read_text()
EVALUATING = (ROOT / "docs" / "evaluating.md").read_text()


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_every_python_block_runs_as_it_stands(capsys):
    torch.manual_seed(0)
    names = {}
    assert len(blocks("python")) == 2
    for block in blocks("python"):
        exec(block, names)
    assert names["mixup"].plan.layer in ("input", "1", "3")
    (shown,) = re.findall(r"^```\n(layer .*?)```", README, flags=re.DOTALL | re.MULTILINE)
    assert capsys.readouterr().out == shown


def test_it_can_be_read_in_a_few_minutes():
    prose = re.sub(r"```.*?```|\[?!\[.*?\]\(.*?\)", "", README, flags=re.DOTALL)
    assert len(prose.split()) < 750


def test_the_table_is_that_of_the_comparison():
    page = (ROOT / "docs" / "compare.md").read_text()
    last_epoch = page.split("*last epoch*")[1].split("*best epoch*")[0]
    pairs = {
        "test error %": "error % ↓",
        "test loss (NLL)": "NLL ↓",
        "accuracy under FGSM %": "FGSM acc. % ↑",
        "within-class share": "within % ↓",
    }
    for ours, theirs in pairs.items():
        (mine,) = re.findall(rf"^\| {re.escape(ours)}.*$", README, flags=re.MULTILINE)
        source, *_ = re.findall(rf"^\| {re.escape(theirs)}.*$", last_epoch, flags=re.MULTILINE)
        given = re.findall(r"[\d.]+ ± [\d.]+", mine)
        assert given == re.findall(r"[\d.]+ ± [\d.]+", source)
        assert len(given) == 3


def test_a_model_of_ones_own_is_evaluated_as_documented():
    names = {}
    exec(blocks("python", LAB)[0], names)
    assert len(names["found"]["attacks"]) == 2


def test_the_layers_of_a_model_of_ones_own_as_documented(tmp_path, capsys, monkeypatch):
    from manifold_mixup.lab import cli

    monkeypatch.setattr(sys, "path", [*sys.path])
    _, block = blocks("python", LAB)
    assert "manifold-mixup layers path/to/model.py:bert --cuts" in LAB
    (tmp_path / "model.py").write_text(block)
    with pytest.raises(SystemExit) as stop:
        cli.main(["layers", f"{tmp_path}/model.py:bert", "--cuts"])
    assert stop.value.code == 0
    chosen = "layers=None mixes at: bert.encoder.layer.0, bert.encoder.layer.1"
    assert chosen in capsys.readouterr().out


def test_the_table_of_layers_is_what_the_command_prints(capsys):
    from manifold_mixup.lab import cli

    command, *shown = re.search(r"```\n\$ manifold-mixup (.*?)```", LAB, re.DOTALL)[1].splitlines()
    with pytest.raises(SystemExit):
        cli.main(shlex.split(command))
    assert capsys.readouterr().out.splitlines() == shown


def test_the_documented_options_exist():
    from dataclasses import fields

    from manifold_mixup.lab import data, evaluate, models
    from manifold_mixup.lab.commands import evaluate as evaluating
    from manifold_mixup.lab.commands import layers, train, tune
    from manifold_mixup.lab.recipes import recipe as recipes

    kinds = (recipes.Recipe, train.Options, tune.Options, layers.Options, evaluating.Options)
    known = {field.name for kind in kinds for field in fields(kind)}
    named = set(re.findall(r"`--([a-z-]+)", LAB + EVALUATING)) - {"root", "battery", "unknown"}
    assert {name.removeprefix("no-") for name in named} <= {
        name.replace("_", "-") for name in known
    }
    for name in (*data.NAMES, *models.NAMES, *evaluate.PARTS):
        assert f"`{name}`" in LAB, name


def test_both_commands_are_run_by_ci():
    ci = (ROOT / ".ci" / "run").read_text()
    install, tried = blocks("bash")
    assert install.strip() == "pip install ."
    commands = [line.split("#")[0].strip() for line in tried.strip().splitlines()]
    assert len(commands) == 2
    for command in commands:
        for part in command.split("&&"):
            assert part.strip().split(" && ")[0] in ci, f"{part.strip()!r} is not in .ci/run"


def test_linked_files_exist():
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")):
        for target in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
