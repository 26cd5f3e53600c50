"""The command line: what it lists, and what it loads for that."""

import functools
import json
import resource
import subprocess
import sys
from dataclasses import is_dataclass

import pytest

from manifold_mixup.lab import cli

# Prints on the error output what was loaded, whatever the command does.
PROGRAM = """
import json, sys
from manifold_mixup.lab import cli
try:
    cli.main(sys.argv[1:])
finally:
    print("\\nloaded", json.dumps(sorted(sys.modules)), file=sys.stderr)
"""

HEAVY = ("torch", "numpy", "timm", "matplotlib", "accelerate")


@functools.cache
def loaded(*arguments: str) -> frozenset[str]:
    """Run a command in a process of its own and return the modules it loaded."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    *_, last = done.stderr.splitlines()
    assert last.startswith("loaded "), done.stderr
    return frozenset(json.loads(last.removeprefix("loaded ")))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_summary_is_the_first_line_of_the_documentation(name):
    command = cli.load(name)
    assert is_dataclass(command.options)
    assert cli.COMMANDS[name].summary == command.options.__doc__.splitlines()[0]
    assert callable(command.prepare)
    assert callable(command.work)


def test_a_command_with_defaults_of_its_own_is_found_by_them():
    assert [name for name in cli.COMMANDS if cli.load(name).defaults] == ["train"]


def test_the_help_lists_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for name, place in cli.COMMANDS.items():
        assert f"• {name}" in shown
        assert place.summary in shown


@pytest.mark.parametrize("arguments", [("--help",), ("layers", "--help"), ("playground", "--help")])
def test_help_that_waits_for_nothing(arguments):
    assert loaded(*arguments).isdisjoint(HEAVY)


def test_other_help_loads_its_own_command_alone():
    """And neither the compiler nor libraries of models; and the test above can fail."""
    modules = loaded("evaluate", "--help")
    assert "torch" in modules
    assert modules.isdisjoint(("torch._dynamo", "torchvision", "timm", "matplotlib"))
    ours = {f"manifold_mixup.lab.{place.module}" for place in cli.COMMANDS.values()}
    assert ours & modules == {"manifold_mixup.lab.evaluate_one"}


@pytest.mark.parametrize("arguments", [("--help",), ("layers", "--help")])
def test_help_takes_less_than_a_second(arguments):
    """In processor time, the least of three: how busy the machine is does not count."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    seconds = []
    for _ in range(3):
        before = spent()
        command = [sys.executable, "-m", "manifold_mixup.lab", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
        seconds.append(spent() - before)
    assert 0 < min(seconds) < 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "Expected one of {compare, train, evaluate,"),
        (("layer",), "Unrecognized options: layer"),
        (("report", "--tilte", "x", "runs"), "manifold-mixup report --help"),
        (("layers",), "manifold-mixup layers --help"),
    ],
)
def test_what_cannot_be_read(capsys, monkeypatch, arguments, reason):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == cli.BAD_INPUT
    assert reason in capsys.readouterr().err


def test_a_shell_can_complete_the_options_of_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--tyro-print-completion", "bash"])
    completion = capsys.readouterr().out
    for option in ("--save-every", "--battery", "--scale", "--title", "--port", "--match"):
        assert option in completion
