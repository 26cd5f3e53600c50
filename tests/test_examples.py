"""Every example runs, on less data than it is made for, and shows what it says."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]


def test_the_plain_loop_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["plain_loop.py", "--epochs", "2", "--count", "400"])
    runpy.run_path(str(ROOT / "examples" / "plain_loop.py"), run_name="__main__")
    assert re.fullmatch(r"epoch 2: test accuracy 0\.\d{4}", last_line(capsys.readouterr().out))


@pytest.mark.slow
def test_the_accelerate_loop_runs_in_two_processes(tmp_path):
    example = [ROOT / "examples" / "accelerate_loop.py", "--cpu", "--epochs", "2", "--count", "400"]
    done = subprocess.run(
        [sys.executable, *TORCHRUN, *example],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch("epoch 2: test accuracy .*", last_line(done.stdout))


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
    compiled = train(1, tmp_path / "compiled.pt", backend="aot_eager", count=250)
    for name, tensor in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], tensor)


def test_the_accelerate_loop_goes_on_to_the_same_bits(tmp_path):
    train = function("accelerate_loop.py")
    train(3, tmp_path / "through", cpu=True, count=250)
    train(1, tmp_path / "stopped", cpu=True, count=250)
    train(3, tmp_path / "stopped", cpu=True, count=250)
    files = [tmp_path / name / "model.safetensors" for name in ("through", "stopped")]
    assert_same_bits(*map(load_file, files))
    assert torch.load(tmp_path / "stopped" / "custom_checkpoint_0.pkl") == {"seed": 0, "step": 12}


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
