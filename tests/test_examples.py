"""Every example runs on less data, and shows what it describes."""

import os
import re
import runpy
import sys
import warnings
from pathlib import Path

import jupytext
import pytest
import torch
from matplotlib import pyplot
from safetensors.torch import load_file

import processes

ROOT = Path(__file__).parents[1]


def test_the_plain_loop_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plain_loop.py", "--epochs", "2", "--count", "400"])
    runpy.run_path(str(ROOT / "examples" / "plain_loop.py"), run_name="__main__")
    assert re.fullmatch(r"epoch 2: test accuracy 0\.\d{4}", last_line(capsys.readouterr().out))


def test_the_notebook_is_that_of_its_script():
    """``jupytext --to ipynb --execute examples/first_steps.py`` makes it with nbconvert."""
    script = jupytext.read(ROOT / "examples" / "first_steps.py", fmt="py:percent")
    notebook = jupytext.read(ROOT / "examples" / "first_steps.ipynb")
    kinds = [(cell.cell_type, cell.source) for cell in script.cells]
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == kinds
    assert all(cell.outputs for cell in notebook.cells[6:] if cell.cell_type == "code")


def test_the_notebook_runs(monkeypatch, capsys):
    source = (ROOT / "examples" / "first_steps.py").read_text()
    assert "STEPS = 1500" in source
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf()))
    names = {}
    exec(source.replace("STEPS = 1500", "STEPS = 20"), names)
    assert len(shown) == 1
    pyplot.close(shown[0])
    printed = capsys.readouterr().out
    assert len(re.findall(r"test error [\d ]\d\.\d\d %", printed)) == 2
    assert names["mixup"].verify(names["x"]).ok


def test_the_loggers_have_every_step(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["loggers.py", str(tmp_path)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from both libraries
        example = runpy.run_path(str(ROOT / "examples" / "loggers.py"), run_name="__main__")
        client = example["mlflow"].MlflowClient()
        (run,) = client.search_runs(["0"])
        logged = {
            name: {
                point.step: point.value
                for point in client.get_metric_history(run.info.run_id, name)
            }
            for name in ("loss", "mixup/layer", "mixup/lam")
        }
    assert set(logged["loss"]) == set(range(20))
    mixed = set(logged["mixup/lam"])
    assert 10 < len(mixed) < 20  # p=0.8
    assert mixed == set(logged["mixup/layer"])
    assert set(logged["mixup/layer"].values()) == {0, 1}
    assert all(0 <= lam <= 1 for lam in logged["mixup/lam"].values())
    assert len(list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))) == 1


def one_of_two(rank, port, script, arguments, output):
    """Run a script like a launcher of two processes, with its output in a file."""
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
    torch.set_num_threads(1)
    sys.argv = [str(script), *arguments]
    sys.stdout = sys.stderr = output.open("w", buffering=1)
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.slow
def test_the_accelerate_loop_runs_in_two_processes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    context, port = processes.context(), processes.free_port()
    example = ROOT / "examples" / "accelerate_loop.py"
    arguments = ["--cpu", "--epochs", "2", "--count", "400"]
    shown = [tmp_path / f"rank.{rank}" for rank in (0, 1)]
    ranks = [
        context.Process(
            target=one_of_two, args=(rank, port, example, arguments, shown[rank]), daemon=True
        )
        for rank in (0, 1)
    ]
    for path, rank in zip(shown, ranks, strict=True):
        path.touch()
        rank.start()
    for rank in ranks:
        rank.join(240)
        rank.kill()  # leave no process behind
    texts = [path.read_text() for path in shown]
    assert [rank.exitcode for rank in ranks] == [0, 0], texts
    assert re.fullmatch("epoch 2: test accuracy .*", last_line(texts[0]))
    assert "test accuracy" not in texts[1]


def last_line(shown):
    return shown.splitlines()[-1]


def function(name):
    return runpy.run_path(str(ROOT / "examples" / name))["train"]


def test_the_plain_loop_goes_on_to_the_same_bits(tmp_path):
    train = function("plain_loop.py")
    through = train(3, tmp_path / "through.pt", count=250)
    train(1, tmp_path / "stopped.pt", count=250)
    resumed = train(3, tmp_path / "stopped.pt", count=250)
    assert_same_bits(through.state_dict(), resumed.state_dict())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
def test_the_plain_loop_compiled(tmp_path):
    train = function("plain_loop.py")
    eager = train(1, tmp_path / "eager.pt", count=250)
    compiled = train(1, tmp_path / "compiled.pt", backend="eager", count=250)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor)


def test_the_accelerate_loop_goes_on_to_the_same_bits(tmp_path):
    train = function("accelerate_loop.py")
    train(3, tmp_path / "through", cpu=True, count=250)
    train(1, tmp_path / "stopped", cpu=True, count=250)
    train(3, tmp_path / "stopped", cpu=True, count=250)
    files = [tmp_path / name / "model.safetensors" for name in ("through", "stopped")]
    assert_same_bits(*map(load_file, files))
    assert torch.load(tmp_path / "stopped" / "custom_checkpoint_0.pkl") == {
        "seed": 0,
        "step": 12,
        "stream": 2,
    }


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_the_documentation_of_accelerate_runs():
    page = (ROOT / "docs" / "recipes" / "accelerate.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names = {}
    exec(block, names)
    assert names["mixup"].state_dict()["step"] == 4
