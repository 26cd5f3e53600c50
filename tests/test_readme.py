"""The README's code runs, and its commands are those that CI runs."""

import re
from pathlib import Path

import torch
from torch import nn

from zoo import BATCH, CLASSES, build, example, plan_at

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


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
    for target in re.findall(r"\]\(((?!http)[^)#]+)", README):
        assert (ROOT / target).is_file(), target
