"""The code of the README and of the documentation runs, and CI runs the README's commands."""

import re
from pathlib import Path

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
    (block,) = blocks("python", LAB)
    exec(block, names)
    assert len(names["found"]["attacks"]) == 2


def test_the_documented_options_exist():
    from dataclasses import fields

    from manifold_mixup.lab import data, evaluate, models, recipes, train_one

    known = {field.name for kind in (recipes.Run, train_one.Train) for field in fields(kind)}
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
