"""The script that makes the results again: what it runs, where its files go, what it checks."""

import importlib.util
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from manifold_mixup.lab import cli

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
PAGE = (RESULTS / "README.md").read_text()
SMALL = """# Results

## Curves

```bash
options="--scale smoke"
```

## Tables

```bash
manifold-mixup reproduce list \\
    $options > list.md     # seconds
python a_script.py $options > script.json
```

```python
made = 1
```
"""


@pytest.fixture
def remake(monkeypatch):
    spec = importlib.util.spec_from_file_location("remake", RESULTS / "remake.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "remake", module)
    spec.loader.exec_module(module)
    return module


def test_every_result_is_made_by_one_command_of_the_page(remake):
    targets = [step.target for step in remake.steps(PAGE) if step.target]
    assert len(targets) == len(set(targets))
    there = {
        path.relative_to(RESULTS).with_suffix("").as_posix()
        for path in RESULTS.glob("*/*")
        if path.suffix in remake.KINDS and path.parent.name != "candidates"
    }
    assert set(targets) == there


def test_the_committed_files_are_those_of_the_fingerprints(remake):
    assert remake.differing() == []
    known = json.loads(remake.FINGERPRINTS.read_text())
    tables = [one for name, one in known.items() if name.endswith(".json") and "frozen" not in name]
    assert len(tables) > 30
    assert all(one["commits"] and one["cpus"] and one["torch"] for one in tables)
    without = {name for name, one in known.items() if name.endswith(".json") and "data" not in one}
    runs = {f"longer/{way}.json" for way in ("none", "input", "manifold")}  # in their evaluations
    assert without == {"candidates/frozen.json", "laptop/later-layer.json", *runs}


def test_a_changed_and_a_new_file_are_named(remake, monkeypatch, tmp_path):
    (tmp_path / "ways").mkdir()
    for name in ("gan.md", "mnist-1d.json"):
        shutil.copy(RESULTS / "ways" / name, tmp_path / "ways" / name)
    monkeypatch.setattr(remake, "HERE", tmp_path)
    monkeypatch.setattr(remake, "FINGERPRINTS", tmp_path / "fingerprints.json")
    assert remake.main(["write"]) == 0
    assert remake.main(["check"]) == 0
    with (tmp_path / "ways" / "gan.md").open("a") as file:
        file.write("one more line\n")
    (tmp_path / "ways" / "new.md").touch()
    (tmp_path / "ways" / "mnist-1d.json").unlink()
    assert remake.differing() == ["ways/gan.md", "ways/mnist-1d.json", "ways/new.md"]
    assert remake.main(["check"]) == 1


def test_a_command_that_no_one_expected_is_refused(remake):
    more = PAGE.replace(
        "manifold-mixup reproduce table-8", "echo more\nmanifold-mixup reproduce table-8"
    )
    with pytest.raises(
        ValueError, match="'Table 8: mixing true factors' has 2 commands, but 1 are"
    ):
        list(remake.steps(more))


def test_assignments_and_continued_lines_belong_to_a_command(remake):
    (tail, *_) = [step for step in remake.steps(PAGE) if step.target == "ways/long-tail"]
    assert any(one.startswith("search=") for one in tail.before)
    (curves,) = [step for step in remake.steps(PAGE) if step.target == "laptop/figure-6"]
    assert curves.command.endswith("--precision bf16 --channels-last --out laptop")


def test_runs_that_become_one_file_are_those_of_one_part(remake):
    """Comparisons share a folder, so a pattern there would find the runs of others too."""
    sources = [(step.part, one) for step in remake.steps(PAGE) for one in step.source.split()]
    folders = {one.partition("/")[0] for _, one in sources if "*" in one}
    assert folders == {"mnist-1d", "five", "longer"}
    for folder in folders:
        assert len({part for part, one in sources if one.startswith(f"{folder}/")}) == 1


def test_a_rehearsal_runs_every_command_of_the_page_at_a_tiny_size(remake, monkeypatch, tmp_path):
    """The words of each command are read as the lab reads them; nothing is run."""
    python = tmp_path / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$@" "" >> "$WORDS"\n')
    python.chmod(0o755)
    monkeypatch.setattr(remake.sys, "executable", str(python))
    script = [remake._functions(tmp_path, tiny=True)]
    for step in remake.steps(PAGE):
        script += [*step.before, step.command]
    words = tmp_path / "words"
    subprocess.run(
        ["bash", "-euc", "\n".join(script)],
        cwd=tmp_path,
        env={**os.environ, "WORDS": str(words)},
        check=True,
    )
    calls = [call.splitlines() for call in words.read_text().split("\n\n") if call]
    assert len(calls) >= len([*remake.steps(PAGE)])
    seen = Counter(is_tiny(call) for call in calls)
    assert seen.keys() == {"analyze", "compare", "evaluate", "reproduce", "train", "tune", "gan.py"}


def is_tiny(words):
    """Return the name of a command that is tiny."""
    if words[0] != "-m":
        assert words[1:] == ["--quick"]
        return Path(words[0]).name
    name, options = words[2], cli._read(words[2:])[1]
    if name in ("train", "tune", "reproduce"):
        sizes = options.run if name == "train" else options
        assert sizes.epochs == 1
        assert (sizes.examples or 4000) <= 300 or options.imbalance == 100
    if name in ("tune", "reproduce"):
        assert options.seeds == 1
    if name == "tune":
        assert options.final_seeds == 1
        assert options.trials == 1 or (options.sampler == "grid" and options.trials is None)
    if name == "reproduce":
        assert (options.scale, options.test, options.compile) == ("smoke", 600, False)
        assert options.tested == 20 or options.table in ("spectra", "figure-5")
    if name == "compare":
        assert options.smoke or (options.epochs, options.seeds) == (2, 2)
    if name == "evaluate":
        assert options.tested * options.steps * options.restarts <= 400
    return name


def test_a_rehearsal_goes_on_after_a_part_that_fails_and_copies_nothing(
    remake, monkeypatch, tmp_path, capfd
):
    here = tmp_path / "results"
    here.mkdir()
    (tmp_path / "a_script.py").write_text("import sys; print(sys.argv[1:])")
    page = f"""# Results
{SMALL.partition("# Results")[2]}
## More

```bash
python a_script.py more > more.json
python a_script.py less > less.txt
```
"""
    (here / "README.md").write_text(
        page.replace("manifold-mixup reproduce list", "python not_there.py")
    )
    monkeypatch.setattr(remake, "HERE", here)
    made = {
        "Curves": (),
        "Tables": (("list", "ours/tables"), ("script", "ours/words")),
        "More": (("more", "ours/more"), ("less", "ours/less")),
    }
    monkeypatch.setattr(remake, "MADE", made)
    monkeypatch.setattr(remake, "TINY", {"a_script.py*more": "--quick"})
    work = tmp_path / "work"
    assert remake.main(["rehearse", "--root", str(tmp_path), "--work", str(work)]) == 1
    said = capfd.readouterr().out
    assert "Tables: Command 'python not_there.py" in said
    assert f"More: python a_script.py less > less.txt left no less in {work}-tiny." in said
    tiny = tmp_path / "work-tiny"
    assert (tiny / "more.json").read_text() == "['more', '--quick']\n"
    assert (tiny / "less.txt").read_text() == "['less']\n"
    assert [path.name for path in here.iterdir()] == ["README.md"]


def test_a_part_is_made_and_copied(remake, monkeypatch, tmp_path, capfd):
    here = tmp_path / "results"
    (here / "ours").mkdir(parents=True)
    (tmp_path / "a_script.py").write_text("import sys; print(sys.argv[1:])")
    monkeypatch.setattr(remake, "HERE", here)
    made = {"Curves": (), "Tables": (("list", "ours/tables"), ("script", "ours/words"))}
    monkeypatch.setattr(remake, "MADE", made)
    made = remake.make("Tables", SMALL, root=tmp_path, work=tmp_path / "work")
    assert made == [here / "ours" / "tables.md", here / "ours" / "words.json"]
    assert "table-1a" in (here / "ours" / "tables.md").read_text()
    assert (here / "ours" / "words.json").read_text() == "['--scale', 'smoke']\n"
    assert capfd.readouterr().out.startswith("$ manifold-mixup reproduce list $options > list.md\n")


def test_the_evaluations_of_several_runs_become_one_file(remake, monkeypatch, tmp_path):
    (tmp_path / "ours").mkdir()
    on = {"git": "1a", "python": "3", "versions": {"torch": "2"}, "machine": {"cpu": "some"}}
    for name in ("second", "first"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for number in (3, 4):
            asked = {"data": "7f", "format": number}
            parts = {"clean": name * (number - 3), "units": {"error": "%"}}
            content = json.dumps({"asked": asked, "evaluation": parts, **on})
            (tmp_path / "runs" / name / f"evaluation-{number}.json").write_text(content)
    monkeypatch.setattr(remake, "HERE", tmp_path)
    step = remake.Step("Tables", "a command", (), "runs/*/evaluation-*", "ours/evaluations")
    assert remake._copy(step, tmp_path) == [tmp_path / "ours" / "evaluations.json"]
    content = json.loads((tmp_path / "ours" / "evaluations.json").read_text())
    assert content["units"] == {"error": "%"}
    runs = content["runs"]
    assert [(run["run"], run["evaluation"]["clean"], run["data"]) for run in runs] == [
        ("first", "first", "7f"), ("second", "second", "7f"),
    ]  # fmt: skip
    found = remake._fingerprint(tmp_path / "ours" / "evaluations.json")
    assert (found["commits"], found["cpus"], found["data"]) == (["1a"], ["some"], ["7f"])


def test_a_file_that_is_too_large_keeps_some_epochs(remake, monkeypatch, tmp_path):
    curve = [{"epoch": epoch, "nll": 0.5} for epoch in range(1, 13)]
    path = tmp_path / "results.json"
    content = {"runs": [{"curve": curve, "best_epoch": 7}]}
    path.write_text(json.dumps(content, indent=4))
    monkeypatch.setattr(remake, "LARGE", len(json.dumps(content)) + 1)
    remake._shorten(path)
    assert json.loads(path.read_text()) == content
    path.write_text(json.dumps(content, indent=4))
    monkeypatch.setattr(remake, "LARGE", len(json.dumps(content)))
    remake._shorten(path)
    (run,) = json.loads(path.read_text())["runs"]
    assert [one["epoch"] for one in run["curve"]] == [5, 7, 10, 12]


def test_a_command_that_left_nothing_is_an_error(remake, monkeypatch, tmp_path):
    made = {"Curves": (), "Tables": (("list", "ours/tables"), ("elsewhere", "ours/words"))}
    monkeypatch.setattr(remake, "MADE", made)
    (step,) = [step for step in remake.steps(SMALL) if step.source == "elsewhere"]
    with pytest.raises(FileNotFoundError, match=r"python a_script.py .* left no elsewhere in"):
        remake._copy(step, tmp_path)


def test_only_the_fingerprints_of_what_was_made_are_written(remake, monkeypatch, tmp_path):
    (tmp_path / "ways").mkdir()
    for name in ("one.md", "two.md"):
        (tmp_path / "ways" / name).write_text("before")
    monkeypatch.setattr(remake, "HERE", tmp_path)
    monkeypatch.setattr(remake, "FINGERPRINTS", tmp_path / "fingerprints.json")
    remake.main(["write"])
    for name in ("one.md", "two.md"):
        (tmp_path / "ways" / name).write_text("after")
    remake._write([tmp_path / "ways" / "one.md"])
    assert remake.differing() == ["ways/two.md"]


@pytest.mark.parametrize(("part", "count"), [("Tabel 8", 0), ("A ", 3), ("", 18)])
def test_one_part_must_be_named(remake, capsys, part, count):
    with pytest.raises(SystemExit):
        remake.main(["make", *([part] if part else [])])
    assert f"{part!r} names {count} parts. Name one: What compare shows" in capsys.readouterr().err
