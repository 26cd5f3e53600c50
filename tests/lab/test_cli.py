"""The command line: its lists and help pages, and the modules that they import."""

import functools
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import is_dataclass
from typing import NamedTuple

import pytest

import manifold_mixup
from manifold_mixup.lab import cli, data, models, paper
from manifold_mixup.lab.recipes import catalog

# Prints the number of calls and the imported modules on the error output, in any case.
PROGRAM = """
import json, sys

calls = 0

def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")
    if calls > 1_000_000:  # that is too many; counting more takes seconds
        sys.setprofile(None)

sys.setprofile(count)
from manifold_mixup.lab import cli
try:
    cli.main(sys.argv[1:])
finally:
    sys.setprofile(None)
    print("\\nran", json.dumps([calls, sorted(sys.modules)]), file=sys.stderr)
"""

HEAVY = ("torch", "numpy", "timm", "matplotlib", "accelerate")


class Ran(NamedTuple):
    calls: int
    modules: frozenset[str]


@functools.cache
def run(*arguments: str) -> Ran:
    """Run a command in a new process; return its number of calls and its modules."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    *_, last = done.stderr.splitlines()
    assert last.startswith("ran "), done.stderr
    calls, modules = json.loads(last.removeprefix("ran "))
    return Ran(calls, frozenset(modules))


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_summary_is_the_first_line_of_the_documentation(name):
    command = cli.load(name)
    assert is_dataclass(command.options)
    assert cli.COMMANDS[name] == command.options.__doc__.splitlines()[0]
    assert callable(command.prepare)
    assert callable(command.run)


def test_a_command_with_defaults_of_its_own_is_found_by_them():
    assert [name for name in cli.COMMANDS if cli.load(name).defaults] == ["train"]


def test_the_help_lists_every_command(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for name, summary in cli.COMMANDS.items():
        assert f"• {name}" in shown
        assert summary in shown


@pytest.mark.parametrize("arguments", [("--help",), ("layers", "--help"), ("playground", "--help")])
def test_help_that_waits_for_nothing(arguments):
    assert run(*arguments).modules.isdisjoint(HEAVY)


def test_other_help_loads_its_own_command_alone():
    """It imports no compiler and no model libraries. The test above can fail."""
    modules = run("evaluate", "--help").modules
    assert "torch" in modules
    assert modules.isdisjoint(("torch._dynamo", "torchvision", "timm", "matplotlib"))
    ours = {f"manifold_mixup.lab.commands.{name}" for name in cli.COMMANDS}
    assert ours & modules == {"manifold_mixup.lab.commands.evaluate"}


@pytest.mark.parametrize("arguments", [("--help",), ("layers", "--help")])
def test_help_takes_few_calls(arguments):
    """That is a fifth of a second."""
    assert 0 < run(*arguments).calls < 200_000


def test_the_count_can_be_too_high():
    assert run("evaluate", "--help").calls > 1_000_000


# Output


def shown(capsys, *arguments):
    """Return the exit status of a command, its output and its error output."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


PAGES = [(), *((name,) for name in cli.COMMANDS), ("analyze", "theory"), ("analyze", "spectra")]


@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("page", PAGES)
def test_help_without_markup_and_as_wide_as_the_terminal(capsys, monkeypatch, page, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    status, out, err = shown(capsys, *page, "--help")
    assert (status, err) == (0, "")
    assert max(map(len, out.splitlines())) <= columns
    assert not re.search(r"`|\[/?bold|:class:|\*\*|\{None\}|<class|\(default: \)", out)
    assert f"usage: {' '.join(('manifold-mixup', *page))}" in out.replace("\n  ", " ")


def test_help_breaks_no_word(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, wide, _ = shown(capsys, "layers", "--help")
    monkeypatch.setenv("COLUMNS", "40")
    _, narrow, _ = shown(capsys, "layers", "--help")
    assert narrow.split() == wide.split()


def test_help_shows_the_values_of_the_recipe_that_is_named(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    _, out, _ = shown(capsys, "train", "--recipe", "compare", "--data", "mnist-1d", "--help")
    assert "Passes over the training set. (default: 50)" in out
    _, out, _ = shown(capsys, "help", "train")
    assert "Passes over the training set. (default: 200)" in out


BAD = {
    (): "no command was given. Expected one of: compare, train,",
    ("trian",): "no command 'trian'. Did you mean 'train'?",
    ("--verson",): "no option --verson without a command. Did you mean '--version'?",
    ("train", "--alfa", "0.2"): "no option --alfa. Did you mean '--alpha'? See {} train --help.",
    ("train", "-alpha", "3"): "no option -alpha. Did you mean '--alpha'?",
    ("compare", "--no-smok"): "no option --no-smok. Did you mean '--no-smoke'?",
    ("compare", "--frobnicate=3"): "no option --frobnicate. See {} compare --help.",
    ("compare", "extra"): "takes no argument 'extra'. See {} compare --help.",
    ("evaluate", "--batery", "clean"): "Did you mean '--battery'? See {} evaluate --help.",
    ("evaluate",): "{} evaluate --help",
    ("analyze",): "Expected one of: theory, spectra. See {} analyze --help.",
    ("analyze", "spctra"): "no command 'spctra'. Did you mean 'spectra'?",
    ("analyze", "spectra", "--layrs"): "'--layers'? See {} analyze spectra --help.",
    ("reproduce", "--scal", "smoke"): "Did you mean '--scale'? See {} reproduce --help.",
    ("report", "--tilte", "x", "runs"): "Did you mean '--title'? See {} report --help.",
    ("playground", "--prt", "5"): "Did you mean '--port'? See {} playground --help.",
    ("layers", "mlp", "--shap", "40"): "Did you mean '--shape'? See {} layers --help.",
    ("compare", "--epochs", "x"): "Error parsing --epochs: 'x' is not a whole number",
    ("compare", "--lr", "--seeds", "3"): "--lr needs a value. See {} compare --help.",
    ("train", "--loss", "crossentropy"): "Did you mean 'cross_entropy'? Expected one of: cross",
    ("compare", "--optimizer", "adagrad"): "--optimizer is 'adagrad'. Expected one of: adamw, sgd.",
}


@pytest.mark.parametrize("arguments", BAD)
def test_what_cannot_be_read(capsys, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = shown(capsys, *arguments)
    assert (status, out) == (cli.BAD_INPUT, "")
    assert BAD[arguments].format("manifold-mixup") in err


def test_the_version(capsys):
    assert shown(capsys, "--version") == (0, f"manifold-mixup {manifold_mixup.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "known"),
    [
        (("train", "--data", "list"), (*data.NAMES, "torchvision:NAME", ".npz")),
        (("compare", "--data=help"), data.NAMES),
        (("train", "--seed", "1", "--model", "list"), (*models.NAMES, "timm:NAME")),
        (("layers", "list"), models.NAMES),
        (("reproduce", "list"), paper.TABLES),
        (("train", "--recipe", "list"), catalog.RECIPES),
        (("train", "--mixing", "list"), catalog.MIXING),
    ],
)
def test_what_there_is_is_listed(capsys, arguments, known):
    status, out, err = shown(capsys, *arguments)
    assert (status, err) == (0, "")
    assert all(name in out for name in known)


@pytest.mark.parametrize(("option", "known"), [("--data", data.NAMES), ("--model", models.NAMES)])
def test_a_value_that_is_missing_lists_what_there_is(capsys, option, known):
    status, _, err = shown(capsys, "train", option)
    assert status == cli.BAD_INPUT
    assert f"{option} needs a value." in err
    assert all(name in err for name in known)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        pytest.param(["train", "--data", "list"], marks=pytest.mark.thorough),
        ["layers", "mlp"],
    ],
)
def test_nobody_reads_on(arguments):
    """The reader has closed the pipe before the first output."""
    readable, writable = os.pipe()
    os.close(readable)
    command = [sys.executable, "-m", "manifold_mixup.lab", *arguments]
    done = subprocess.run(
        command, stdout=writable, stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    os.close(writable)
    assert (done.returncode, done.stderr) == (cli.NOT_READ, "")


@pytest.mark.parametrize("place", ["prepare", "run"])
def test_ctrl_c_at_any_time(capsys, monkeypatch, place):
    def press(_):
        raise KeyboardInterrupt

    command = cli.load("layers")._replace(**{place: press})
    monkeypatch.setattr(cli, "load", lambda _: command)
    assert shown(capsys, "layers", "mlp") == (cli.INTERRUPTED, "", "")


def test_a_shell_can_complete_the_options_of_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--tyro-print-completion", "bash"])
    completion = capsys.readouterr().out
    for option in ("--save-every", "--battery", "--scale", "--title", "--port", "--match"):
        assert option in completion


def test_a_warning_of_the_lab_is_a_sentence_and_others_keep_their_line(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    own = warnings.formatwarning("a file is damaged.", UserWarning, cli.__file__, 7)
    assert own == "Warning: a file is damaged.\n"
    other = warnings.formatwarning("slow", UserWarning, pytest.__file__, 7)
    assert other.startswith(f"{pytest.__file__}:7: UserWarning: slow\n")
