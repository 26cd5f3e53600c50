"""The pages about results say what the results say, and their tables are well formed."""

import json
import re
from pathlib import Path

import pytest

from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.runs.provenance import fingerprint

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
PAGE = (RESULTS / "README.md").read_text()
PAGES = [ROOT / "README.md", RESULTS / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WAYS = PAGE.split("\n## Ways of mixing", 1)[1].split("\n## ", 1)[0]
NO_MIXUP, MANIFOLD = "difference to no mixup", "difference to manifold mixup"
# Cells with a number, in the tables of each file's section, so that none is read past.
CELLS = {
    "mnist-1d": 79,
    "fashion-mnist": 56,
    "long-tail": 26,
    "diabetes": 9,
    "california": 16,
    "few-labels": 23,
}


def tables(text):
    """Yield the tables of a page, each as rows of cells."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for block in re.findall(r"(?:^\|.*\n)+", prose + "\n", flags=re.MULTILINE):
        yield [cells(line) for line in block.splitlines()]


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_row_of_a_table_has_as_many_cells_as_its_header(page):
    for header, delimiters, *rows in tables(page.read_text()):
        assert all(re.fullmatch(":?-+:?", cell) for cell in delimiters), header
        assert len(delimiters) == len(header), header
        assert [row for row in rows if len(row) != len(header)] == []


def test_a_table_with_too_few_delimiters_would_be_seen():
    ((header, delimiters, row),) = tables(
        "```\n| a |\n```\n| | b \\| c |  |\n|---|---:|\n| d | | |\n"
    )
    assert (len(header), len(delimiters), len(row)) == (3, 2, 3)


def of_page(name):
    """Return the numbers of the last epoch in a file of ``results/ways``.

    By measure, method and "" for its mean, or by what it is compared with.
    """
    found = {}
    for header, _, *rows in tables((RESULTS / "ways" / f"{name}.md").read_text()):
        section, down = header[0], "*" in header[0]  # methods stand below or beside each other
        for first, *row in rows:
            section = first if first.startswith("*") else section
            for title, cell in zip(header[1:], row, strict=True):
                measure, method = (title, first) if down else (first, title)
                if "last epoch" in section and cell:
                    found |= numbers(cell, (bare(measure), method), "manifold" in section)
    return found


def numbers(cell, key, to_manifold):
    mean, _, gap = ("", "", cell) if to_manifold else cell.partition("<br>")
    parts = {(*key, ""): mean, (*key, MANIFOLD if to_manifold else NO_MIXUP): gap}
    return {name: text for name, text in parts.items() if text}


def bare(measure):
    return measure.rstrip("↓↑ ")


def of_section(section):
    """Return the numbers of the tables in a section of the page, in the same way."""
    found = {}
    for header, _, *rows in tables(section):
        for method, *row in rows:
            for title, cell in zip(header[1:], row, strict=True):
                if not title.startswith("difference"):
                    measure = bare(title)
                if cell:
                    found[measure, method, title if title.startswith("difference") else ""] = cell
    return found


def sections():
    """Return the part of the page about each file; a section with two files has two parts."""
    parts = re.split(r"(?=^### )", WAYS, flags=re.MULTILINE)
    found = {}
    for part in parts:
        names = re.findall(r"\(ways/([\w-]+)\.md\)", part)
        split = re.split(r"(?=^California housing:)", part, flags=re.MULTILINE)
        found |= dict(zip(names, split, strict=True) if names else ())
    return found


def test_every_file_of_ways_has_a_section():
    files = {file.stem for file in (RESULTS / "ways").glob("*.md")} - {"gan"}
    assert sections().keys() - {"gan"} == files == CELLS.keys()


def test_the_table_of_the_gan_is_that_of_its_file():
    """Its page is that of the example."""
    file, page = (RESULTS / "ways" / "gan.md", RESULTS.parent / "docs" / "examples.md")
    rows = [line for line in file.read_text().splitlines() if "±" in line and line[0] == "|"]
    assert len(rows) == 3
    assert set(rows) <= set(page.read_text().splitlines())


@pytest.mark.parametrize("name", CELLS)
def test_the_tables_of_ways_are_those_of_the_files(name):
    shown, there = of_section(sections()[name]), of_page(name)
    assert len(shown) == CELLS[name]
    assert {key: there.get(key) for key in shown} == shown


def test_the_digits_of_few_labels_are_those_that_were_trained_on(tmp_path, monkeypatch):
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "results/README.md", "exec"), {})
    content = json.loads((RESULTS / "ways" / "few-labels.json").read_text())
    name = content["runs"][0]["run"]["data"]
    assert f"--data {name} --model cnn" in PAGE
    run = Recipe(data=name, examples=100, ict_weight=1.0)  # so that the others have no label
    trained = datasets.reduced(datasets.load(name, root=tmp_path), run)
    assert (len(trained.y), len(trained.unlabelled), len(trained.y_test)) == (100, 1000, 497)
    assert fingerprint(trained) == content["data"]["sha256"]


def test_the_table_of_the_default_comparison_is_that_of_its_file():
    """All but the seconds, which the page has from a quiet machine."""
    page = (RESULTS.parent / "docs" / "compare.md").read_text()
    section = page.split("\n## Default: two spirals", 1)[1].split("\n## ", 1)[0]
    (shown,) = tables(section)
    there, _ = (RESULTS / "compare" / "spirals.md").read_text().split("\n\nMean ", 1)
    (made,) = tables(there)
    assert len(shown) > 25
    assert [row for row in shown if "seconds" not in row[0]] == [
        row for row in made if "seconds" not in row[0]
    ]


# The headings of the page about `compare`, with the files of their tables in order.
COMPARED = {
    "MNIST-1D": ["mnist-1d", "mnist-1d"],  # the second is that of confidence and flatness
    "Without batch norm": ["mnist-1d-no-batch-norm"],
    "Where mixing does not help": ["mnist-1d-sgd", "mnist-1d-cnn"],
    "Fashion-MNIST": ["fashion-mnist-mlp", "fashion-mnist-cnn"],
}


@pytest.mark.parametrize("heading", COMPARED)
def test_the_tables_of_other_comparisons_are_those_of_their_files(heading):
    page = (RESULTS.parent / "docs" / "compare.md").read_text()
    section = page.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    for shown, name in zip(tables(section), COMPARED[heading], strict=True):
        theirs = (RESULTS / "compare" / f"{name}.md").read_text().splitlines()
        assert len(shown) > 6
        assert all(row in [cells(line) for line in theirs] for row in shown)


def test_the_table_of_the_search_for_settings_is_that_of_its_file():
    page = (RESULTS.parent / "docs" / "compare.md").read_text()
    section = page.split("\n## How the settings were chosen", 1)[1].split("\n## ", 1)[0]
    ((_, _, *shown),) = tables(section.replace("**", ""))
    ((head, _, *made),) = tables((RESULTS / "compare" / "settings.md").read_text())
    columns = [head.index(name) for name in ("method", "lr", "α", "error %", "NLL", "FGSM acc. %")]
    assert len(shown) == 14
    assert shown == [[row[at] for at in columns] for row in made]


def test_the_errors_of_other_comparisons_are_those_of_their_files():
    section = PAGE.split("\n## What compare shows", 1)[1].split("\n## ", 1)[0]
    ((_, _, *rows),) = tables(section)
    assert len(rows) == 5
    for row in rows:
        (name,) = re.findall(r"\(compare/([\w-]+)\.md\)", row[-1])
        theirs = (RESULTS / "compare" / f"{name}.md").read_text()
        (first, *_) = (line for line in theirs.splitlines() if line.startswith("| error"))
        assert row[1:4] == cells(first)[1:]


def test_the_table_of_a_later_layer_is_that_of_its_file():
    section = PAGE.split("\n### A later layer", 1)[1].split("\n## ", 1)[0]
    ((_, _, *rows),) = tables(section)
    theirs = (RESULTS / "laptop" / "later-layer.md").read_text().split("**features, centred")[1]
    ((head, _, *methods),) = tables(theirs)
    columns = [head.index(name) for name in ("outside, %", "within, %", "seen, %")]
    assert [one[0] for one in methods] == ["no mixup", "manifold mixup α=2"]
    assert [row[1:] for row in rows] == [[one[at] for one in methods] for at in columns]


@pytest.mark.parametrize("share", [20, 40])
def test_the_table_of_wrong_labels_is_that_of_its_files(share):
    section = PAGE.split("\n### Wrong labels", 1)[1].split("\n### ", 1)[0]
    ((_, _, *rows),) = tables(section)
    theirs = (RESULTS / "noise" / f"mnist-1d-{share}.md").read_text().split("*best epoch*")[0]
    ours = [row for row in rows if f" {share} %" in row[0]]
    assert len(ours) == 3
    for name, *values, to_input in ours:
        measure = name.split(" ")[0].rstrip(",")
        (line, gap, *_) = (x for x in theirs.splitlines() if x.startswith(f"| {measure} "))
        assert values == cells(line)[1:]
        flipped = [-float(one.replace("−", "-")) for one in re.findall(r"[+−][\d.]+", gap)]
        mean, low, high = (float(x.replace("−", "-")) for x in re.findall(r"[+−][\d.]+", to_input))
        assert [mean, low, high] == [flipped[0], flipped[2], flipped[1]]
        assert ("**" in gap) == ("**" in to_input)


def test_the_table_of_wrong_labels_on_images_is_that_of_its_file():
    section = PAGE.split("\n### CIFAR-10 with wrong labels", 1)[1].split("\n### ", 1)[0]
    ((_, _, *rows),) = tables(section)
    theirs = (RESULTS / "laptop" / "label-noise.md").read_text()
    for name, *values in rows:
        measure, share = name.split(" ")[0].rstrip(","), 40 if " 40 %" in name else 20
        table = theirs.split(f"**{share} % wrong labels, {measure}", 1)[1].split("\n\n**", 1)[0]
        first = 4 if "best epoch" in name else 2
        found = [line.split("|")[1:-1] for line in table.splitlines() if "mixup" in line]
        pairs = [[part.strip() for part in cells[first : first + 2]] for cells in found]
        assert values == ["<br>".join(filter(None, pair)) for pair in pairs]
    runs = json.loads((RESULTS / "laptop" / "label-noise.json").read_text())["rows"]
    plain = [row for row in runs if row["label"].endswith("no mixup")]
    mixed = [row for row in runs if row not in plain]
    for row in mixed:
        (alike,) = (one for one in plain if one["label"][:4] == row["label"][:4])
        for own, other in zip(row["runs"], alike["runs"], strict=True):
            assert 6 < other["last"]["error"] - own["last"]["error"] < 12


def test_the_table_of_the_longer_runs_is_that_of_their_files():
    section = PAGE.split("\n### All images of CIFAR-10", 1)[1].split("\n### ", 1)[0]
    ((_, _, *rows),) = tables(section)
    found = {name: values for name, *values in rows}
    for k, way in enumerate(("none", "input", "manifold")):
        run = json.loads((RESULTS / "longer" / f"{way}.json").read_text())["result"]
        evaluated = json.loads((RESULTS / "longer" / f"{way}-evaluation.json").read_text())
        _, scaled = evaluated["evaluation"]["calibration"]
        last = run["last"]
        numbers = {
            "error % ↓": last["error"],
            "NLL ↓": last["nll"],
            "NLL after temperature scaling ↓": scaled["nll"],
            "ECE % ↓": last["ece"],
            "ECE % after temperature scaling ↓": scaled["ece"],
            "temperature": sum(scaled["temperatures"]) / 2,
            "area under risk and coverage % ↓": evaluated["evaluation"]["selective"][0]["aurc"],
            "accuracy % under FGSM, ε = 8/255 in pixels ↑": last["fgsm_accuracy"],
            "training loss, mixed where the method mixes": run["curve"][-1]["train_loss"],
        }
        assert numbers.keys() == found.keys()
        for name, value in numbers.items():
            decimals = len(found[name][k].partition(".")[2])
            assert found[name][k] == f"{value:.{decimals}f}"
        assert run["best_epoch"] == run["run"]["epochs"] == 16
