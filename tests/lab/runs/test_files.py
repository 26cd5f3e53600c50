"""Files are written atomically."""

import json
import math
import os

import pytest

from manifold_mixup.lab.runs import files


def test_json_has_null_where_there_is_no_number(tmp_path):
    files.write_json(tmp_path / "a.json", {"α": [1.5, math.nan, (math.inf, None)], "n": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"α": [1.5, None, [None, None]], "n": 2}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    files.write(file, b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match=r"cannot write .*: No space left on device\. Make room"):
        files.write(file, b"newer")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_made_and_left_empty(tmp_path):
    files.writable_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write into .*file/below: Not a directory\. Choose"):
        files.writable_folder(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_protected_folder_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=r"cannot write into .*: Permission denied"):
        files.writable_folder(tmp_path)
