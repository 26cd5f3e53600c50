"""Provenance, and files that are written at once or not at all."""

import getpass
import json
import math
import os
import platform
import shutil
from pathlib import Path

import pytest
import torch

from manifold_mixup.lab import runs


def test_json_has_null_where_there_is_no_number(tmp_path):
    runs.write_json(tmp_path / "a.json", {"α": [1.5, math.nan, (math.inf, None)], "n": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"α": [1.5, None, [None, None]], "n": 2}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    runs.write(file, b"old")

    def full_disk(self: Path, content: bytes) -> None:
        with self.open("wb") as out:
            out.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        runs.write(file, b"newer")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_made_and_left_empty(tmp_path):
    runs.writable_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*file/below: Not a directory\. Choose"):
        runs.writable_folder(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_protected_folder_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"cannot write into .*: Permission denied"):
        runs.writable_folder(tmp_path)


def test_provenance_names_versions_and_machine_but_neither_host_user_nor_folder():
    found = runs.provenance()
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    text = json.dumps(found)
    assert "/" not in text.replace(found["machine"]["cpu"], "")
    for secret in (platform.node(), str(Path.home())):
        assert secret not in text
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_code_that_git_does_not_track_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    assert runs.git_hash() is None


def test_a_fingerprint_changes_with_the_data(task):
    before = runs.fingerprint(task)
    assert before == runs.fingerprint(task)
    task.x[0, 0] += 1
    try:
        assert runs.fingerprint(task) != before
    finally:
        task.x[0, 0] -= 1
