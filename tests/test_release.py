"""The published package: consistent versions, type annotations, and texts without broken names."""

import platform
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import manifold_mixup

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = manifold_mixup.__version__


def field(name):
    """Return a single-line field of CITATION.cff."""
    return re.search(rf"^{name}: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)[1]


def test_the_versions_agree():
    assert PROJECT["version"] == VERSION == field("version")


def test_the_changelog_has_the_version_or_what_becomes_it():
    heads = re.findall(r"^## \[(.+?)\](?: - (.+))?$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert ("Unreleased", "") in heads or (VERSION, field("date-released")) in heads


def test_the_licence_is_the_same_everywhere():
    assert PROJECT["license"] == field("license") == "MIT"
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_the_oldest_python_is_the_first_that_is_listed():
    listed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert PROJECT["requires-python"] == f">={listed[0]}"
    assert listed == sorted(listed, key=lambda version: int(version.split(".")[1]))


def test_types_come_along():
    """Type checkers read the annotations of a package only if it has this file."""
    assert (Path(manifold_mixup.__file__).parent / "py.typed").is_file()
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_the_line_of_versions_for_a_report_of_a_bug(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["manifold_mixup"])
    runpy.run_module("manifold_mixup", run_name="__main__")  # as `python -m` does
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(
        f"manifold-mixup {VERSION}, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
    )
    assert (", CUDA " in line) == torch.cuda.is_available()
    assert platform.node() not in line


def test_with_arguments_it_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["manifold_mixup", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("manifold_mixup", run_name="__main__")
    assert (left.value.code, capsys.readouterr().out) == (0, f"manifold-mixup {VERSION}\n")


@pytest.mark.parametrize("page", ["bug", "question"])
def test_the_forms_ask_for_that_line(page):
    form = (ROOT / ".github" / "ISSUE_TEMPLATE" / f"{page}.yml").read_text()
    assert "`python -m manifold_mixup`" in form
