"""The code of the README and of the documentation runs, and CI runs the README's commands."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from zoo import BATCH, CLASSES, build, example, plan_at

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LAB = (ROOT / "docs" / "lab.md").read_text()


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_every_python_block_runs_in_order():
    torch.manual_seed(0)
    model, y = build("residual"), torch.arange(BATCH) % CLASSES
    x = example(model)
    names = {
        "nn": nn,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": [(x, y)] * 3,
        "x": x,
        "y": y,
        "layers": ["layer1", "layer2"],
        "last_epochs": 10,
        "my_criterion": nn.CrossEntropyLoss(),
        "num_classes": CLASSES,
        "plan": plan_at("layer1"),
        "checkpoint": {},
    }
    assert len(blocks("python")) >= 3
    for block in blocks("python"):
        if "ManifoldMixup(" in block and "mixup" in names:
            names["mixup"].remove()  # each block of the README is a script of its own
        code = block.replace("mixup = ManifoldMixup(", "mixup = attach(")
        names["attach"] = lambda *args, **kwargs: attach_anew(names, *args, **kwargs)
        exec(code, names)
        names["output"] = model(x)
    assert names["checkpoint"]["mixup"].keys() == {"seed", "step"}


def test_a_model_of_ones_own_is_evaluated_as_documented():
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8, generator=generator)
    y = torch.arange(40) % 10
    names = {"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), "x": x, "y": y}
    names |= {"x_test": x[:20], "y_test": y[:20]}
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

    from manifold_mixup.lab import data, evaluate, layers, models, recipes, train_one

    kinds = (recipes.Run, train_one.Train, layers.Layers)
    known = {field.name for kind in kinds for field in fields(kind)}
    named = set(re.findall(r"`--([a-z-]+)", LAB)) - {"root", "battery"}
    assert named <= {name.replace("_", "-") for name in known}
    for name in (*data.NAMES, *models.NAMES, *evaluate.PARTS):
        assert f"`{name}`" in LAB, name


def attach_anew(names, *args, **kwargs):
    """Attach as the README does, taking an earlier line's attachment off."""
    from manifold_mixup import ManifoldMixup

    return ManifoldMixup(*args, **kwargs, replace=True)


def test_both_commands_are_run_by_ci():
    ci = (ROOT / ".ci" / "run").read_text()
    commands = [line.split("#")[0].strip() for line in blocks("bash")[0].strip().splitlines()]
    assert len(commands) == 2
    for command in commands:
        for part in command.split("&&"):
            assert part.strip().split(" && ")[0] in ci, f"{part.strip()!r} is not in .ci/run"


def test_linked_files_exist():
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("results/*.md")):
        for target in re.findall(r"\]\(((?!http)[^)#]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"
