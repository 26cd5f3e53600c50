"""Provenance names the code, the machine and the data, but no user."""

import getpass
import json
import platform
import shutil
from pathlib import Path

import pytest
import torch

from manifold_mixup.lab.runs import provenance


def test_provenance_names_versions_and_machine_but_neither_host_user_nor_folder():
    found = provenance.describe()
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    assert found["machine"]["instructions"] == torch.backends.cpu.get_cpu_capability()
    text = json.dumps(found)
    assert "/" not in text.replace(found["machine"]["cpu"], "")
    for secret in (platform.node(), str(Path.home())):
        assert secret not in text
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text


def test_git_and_the_packages_are_asked_once(monkeypatch):
    found = provenance.describe()
    monkeypatch.setattr(provenance, "git_hash", lambda: pytest.fail("asked again"))
    assert provenance.describe() == found


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_code_that_git_does_not_track_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.git_hash() is None


def test_a_fingerprint_changes_with_the_data(task):
    before = provenance.fingerprint(task)
    assert before == provenance.fingerprint(task)
    task.x[0, 0] += 1
    try:
        assert provenance.fingerprint(task) != before
    finally:
        task.x[0, 0] -= 1
