"""The committed results are consistent: complete tables with numbers that follow from the runs."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest

from manifold_mixup.lab import paper
from manifold_mixup.lab.candidates import registered
from manifold_mixup.lab.candidates.table import markdown, verdicts
from manifold_mixup.lab.evaluate.statistics import t_quantile
from manifold_mixup.lab.report.summary import summarise
from manifold_mixup.lab.report.table import markdown_table
from manifold_mixup.lab.runs.result import read_result

RESULTS = Path(__file__).parents[2] / "results"
NETWORKS = (
    "12 units after three layers",
    "30 units after three layers",
    "30 units after one layer",
)
TUNED = sorted((RESULTS / "ways").glob("*.json"))
COLLAPSED = RESULTS / "compare" / "evaluations.json"  # made by `evaluate`, of several runs
SHOWN = sorted(set((RESULTS / "compare").glob("*.json")) - {COLLAPSED})
WAYS = [*TUNED, *SHOWN, *sorted((RESULTS / "noise").glob("*.json"))]  # made by `compare`
CANDIDATES = sorted((RESULTS / "candidates").glob("*.json"))  # made by `lab.candidates`
LONGER = sorted((RESULTS / "longer").glob("*.json"))  # made by `train` and `evaluate`
ANALYSED = RESULTS / "laptop" / "later-layer.json"  # made by `analyze`
EVALUATED = RESULTS / "five" / "evaluations.json"  # made by `evaluate`, of several runs
FILES = sorted(
    set(RESULTS.glob("*/*.json")) - {*WAYS, *CANDIDATES, *LONGER, ANALYSED, EVALUATED, COLLAPSED}
)


def test_there_are_results():
    assert FILES
    assert all(file.stat().st_size < 1_000_000 for file in RESULTS.rglob("*"))


@pytest.mark.parametrize("file", [*FILES, *WAYS], ids=lambda file: file.stem)
def test_a_table_is_whole_and_says_where_it_was_made(file):
    content, page = json.loads(file.read_text()), file.with_suffix(".md").read_text()
    assert content["complete"]
    assert "NOT COMPLETE" not in page
    assert content["title"] in page
    assert content["machine"]["cpu"] in page
    assert content["versions"]["torch"] in page
    assert content["git"] in page
    assert f"{file.parent.name}/{file.stem}.md" in (RESULTS / "README.md").read_text()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_means_are_those_of_the_runs(file):
    content = json.loads(file.read_text())
    columns = {column.key: column for column in paper.table(content["table"]).columns}
    for row in content["rows"]:
        for when in ("last", "best"):
            for key, cell in row["ours"][when].items():
                values = [_number(columns[key], run, when) for run in row["runs"]]
                assert cell["spread"]["n"] == len(values) > 0
                assert cell["spread"]["mean"] == pytest.approx(fmean(values))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_differences_are_those_of_the_runs_with_the_same_seeds(file):
    content = json.loads(file.read_text())
    columns = {column.key: column for column in paper.table(content["table"]).columns}
    for row in content["rows"]:
        for key, cell in row["ours"]["last"].items():
            gaps = _gaps(content, row, columns[key])
            assert (cell["difference"] is None) == (not gaps)
            if len(gaps) > 1:
                half = t_quantile(len(gaps) - 1) * stdev(gaps) / len(gaps) ** 0.5
                found = [cell["difference"][name] for name in ("mean", "low", "high", "n")]
                mean = fmean(gaps)
                assert found == pytest.approx([mean, mean - half, mean + half, len(gaps)])


@pytest.mark.parametrize("file", WAYS, ids=lambda file: file.stem)
def test_a_comparison_of_ways_is_that_of_its_runs(file):
    content, page = json.loads(file.read_text()), file.with_suffix(".md").read_text()
    results = [read_result(run) for run in content["runs"]]
    # Runs stand in the order in which they ended.
    ordered = [one["method"] for one in content.get("summary", ())]
    methods = list(dict.fromkeys(ordered or (one.run.method for one in results)))
    seeds = {one.run.seed for one in results}
    assert len(seeds) >= 5
    assert len(results) == len(seeds) * len(methods)
    table = markdown_table(summarise(results, methods), title=content["title"], caption="")
    assert page.startswith(table.rstrip())
    assert ("Settings: the best of" in page) == (file in TUNED)


def test_the_table_of_the_registered_tasks_is_that_of_its_runs():
    folder = RESULTS / "candidates"
    text = markdown(verdicts(registered.CANDIDATES, folder))
    assert (folder / "table.md").read_text() == text
    for one in registered.CANDIDATES:
        for stem in (one.name, *([] if one.settings_of else [f"{one.name}-development"])):
            assert (folder / f"{stem}.json") in CANDIDATES or "not run" in _row_of(text, one.name)


def _row_of(table, name):
    return next(line for line in table.splitlines() if line.startswith(f"| {name} |"))


@pytest.mark.parametrize("claim", ["outside", "within"])
@pytest.mark.parametrize("network", NETWORKS)
def test_manifold_mixup_flattens_mnist(network, claim):
    """The claim of the docs about spectra is clear at the last epoch in all three networks."""
    gap = _difference("laptop/spectra", f"{network}, manifold mixup α=2", claim)
    assert gap["n"] >= 10
    assert gap["high"] < 0


@pytest.mark.parametrize(
    ("claim", "least"), [("confident", 15), ("within", 10), ("second", 0), ("nll", 0), ("error", 0)]
)
def test_manifold_mixup_on_the_spirals(claim, least):
    """It is less confident away from the data, classes are flat, and the likelihood is better."""
    gap = _difference("figures/figure-1", "manifold mixup α=2", claim)
    assert gap["n"] >= 5
    assert gap["high"] < -least


def _difference(table, label, claim):
    content = json.loads((RESULTS / f"{table}.json").read_text())
    (row,) = (row for row in content["rows"] if row["label"] == label)
    return row["ours"]["last"][claim]["difference"]


def _gaps(content, row, column):
    """Return the differences of a row to its baseline, for each seed."""
    runs = {one["label"]: one["runs"] for one in content["rows"]}
    own, base = (
        {run["run"]["seed"]: _number(column, run, "last") for run in runs.get(label, [])}
        for label in (row["label"], row["base"])
    )
    return [own[seed] - base[seed] for seed in sorted(own.keys() & base.keys())]


def _number(column, run, when):
    if column.training:
        epoch = run["best_epoch"] if when == "best" else len(run["curve"])
        return run["curve"][epoch - 1][column.key]
    if column.battery is None:
        return run[when][column.key]
    part, name = column.battery
    (value,) = (row for row in run["evaluation"][when][part] if row["name"] == name)
    for step in column.field.split("."):
        value = value[step]
    return value


def test_the_table_of_five_seeds_has_the_means_of_its_evaluations():
    """Each number of the page that is no difference, from the evaluations of the runs."""
    page = (RESULTS / "README.md").read_text().partition("### Five seeds")[2]
    runs = json.loads(EVALUATED.read_text())["runs"]
    ways = ("no_mixup", "input_mixup", "manifold_mixup")
    found: dict[tuple[str, str], list[dict]] = {}
    for one in runs:
        for test, rows in one["evaluation"].items():
            (way,) = (way for way in ways if f"-{way}" in one["run"])
            if test in ("clean", "calibration", "selective"):
                found.setdefault((test, way), []).append(rows)
    for test, row, key, digits, line in (
        ("clean", 0, "error", 2, "error % ↓"),
        ("clean", 0, "nll", 3, "NLL ↓"),
        ("calibration", 1, "nll", 3, "NLL after temperature scaling ↓"),
        ("calibration", 0, "ece", 2, "ECE % ↓"),
        ("calibration", 1, "ece", 2, "ECE % after temperature scaling ↓"),
        ("selective", 0, "aurc", 2, "area under risk and coverage % ↓"),
    ):
        cells = next(one for one in page.splitlines() if one.startswith(f"| {line} |")).split("|")
        for way, cell in zip(ways, cells[2:], strict=False):
            values = [rows[row][key] for rows in found[test, way]]
            assert len(values) == 5
            assert f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}" in cell


def cells_below(heading, line):
    """Return the cells of the first such line of a table below a heading of the page."""
    page = (RESULTS / "README.md").read_text().partition(heading)[2]
    found = next(one for one in page.splitlines() if one.startswith(f"| {line} |"))
    return [cell.strip() for cell in found.split("|")[2:-1]]


def five_seeds(line):
    return cells_below("### Five seeds", line)


def shown(cell, digits):
    """Return a spread and its difference as the page has them, rounded once."""
    text = "{mean:.{0}f} ± {std:.{0}f}".format(digits, **cell["spread"])
    if cell["difference"] is None:
        return text
    gap = "{mean:+.{0}f} [{low:+.{0}f}, {high:+.{0}f}]".format(digits, **cell["difference"])
    clear = cell["difference"]["low"] * cell["difference"]["high"] > 0
    return f"{text}<br>{f'**{gap}**' if clear else gap}".replace("-", "−")


@pytest.mark.parametrize(
    ("line", "file", "key", "digits"),
    [
        ("error % ↓", "table-1a", "error", 2),
        ("NLL ↓", "table-1a", "nll", 3),
        (
            "CIFAR-100 against CIFAR-10 by maximum softmax, AUROC % ↑",
            "outliers",
            "cifar-100, confidence, auroc",
            1,
        ),
        ("Gaussian noise, the same ↑", "outliers", "Gaussian noise, confidence, auroc", 1),
        (
            "accuracy % under FGSM, ε = 0.03 in standardised units (200 images) ↑",
            "table-7",
            "fgsm",
            1,
        ),
        ("error % of 5 nearest neighbours ↓", "knn", "knn", 2),
    ],
)
def test_the_first_scaled_table_is_that_of_its_files(line, file, key, digits):
    rows = json.loads((RESULTS / "laptop" / f"{file}.json").read_text())["rows"]
    found = [row["ours"]["last"][key] for row in rows if row["runs"]]
    cells = cells_below("## Scaled, on two CPU cores", line)
    assert cells == [shown(cell, digits) for cell in found]


def test_without_mixing_the_likelihood_of_mnist_1d_is_best_after_twenty_epochs():
    runs = json.loads((RESULTS / "compare" / "mnist-1d.json").read_text())["runs"]
    curves = [run["curve"] for run in runs if run["run"]["method"] == "no mixup"]
    by_epoch = [fmean(epoch["nll"] for epoch in epochs) for epochs in zip(*curves, strict=True)]
    assert 18 <= 1 + by_epoch.index(min(by_epoch)) <= 22
    assert (
        "lowest after about twenty epochs" in (RESULTS.parent / "docs" / "compare.md").read_text()
    )


def test_the_temperatures_of_five_seeds_are_the_means_of_both_halves():
    runs = [
        run
        for run in json.loads(EVALUATED.read_text())["runs"]
        if "calibration" in run["evaluation"]
    ]
    cells = five_seeds("temperature, mean of the halves")
    for way, cell in zip(("no_mixup", "input_mixup", "manifold_mixup"), cells, strict=True):
        values = [
            fmean(run["evaluation"]["calibration"][1]["temperatures"])
            for run in runs
            if f"-{way}" in run["run"]
        ]
        assert len(values) == 5
        assert cell == f"{fmean(values):.2f} ± {stdev(values):.2f}"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (
            "CIFAR-100 against CIFAR-10 by maximum softmax, AUROC % ↑",
            "cifar-100, confidence, auroc",
        ),
        ("the same by energy ↑", "cifar-100, energy, auroc"),
        ("the same by distance in features ↑", "cifar-100, distance, auroc"),
        ("Gaussian noise by maximum softmax ↑", "Gaussian noise, confidence, auroc"),
    ],
)
def test_the_outliers_of_five_seeds_are_those_of_the_file(line, key):
    rows = json.loads((RESULTS / "five" / "outliers.json").read_text())["rows"]
    for row, cell in zip(rows, five_seeds(line), strict=True):
        found = row["ours"]["last"][key]
        assert found["spread"]["n"] == 5
        assert cell == shown(found, 1)


@pytest.mark.parametrize(
    ("test", "line", "value"),
    [
        (
            "apgd",
            "under APGD, 100 steps and 5 restarts, ε = 2/255 ↑",
            lambda x: x[0]["accuracy"][1],
        ),
        ("apgd", "ε = 4/255 ↑", lambda x: x[0]["accuracy"][2]),
        ("robustness", "Square, 1,000 queries, ε = 8/255 ↑", lambda x: x[2]["accuracy"]),
    ],
    ids=["2/255", "4/255", "Square"],
)
def test_the_attacks_of_five_seeds_are_those_of_the_evaluations(test, line, value):
    page = (RESULTS / "README.md").read_text().partition("### Five seeds")[2]
    cells = next(one for one in page.splitlines() if one.startswith(f"| {line} |")).split("|")
    runs = [run for run in json.loads(EVALUATED.read_text())["runs"] if test in run["evaluation"]]
    for way, cell in zip(("no_mixup", "input_mixup", "manifold_mixup"), cells[2:], strict=False):
        values = [value(run["evaluation"][test]) for run in runs if f"-{way}" in run["run"]]
        assert len(values) == 5
        assert f"{fmean(values):.1f} ± {stdev(values):.1f}" in cell


@pytest.mark.parametrize(
    ("line", "layer", "key"),
    [
        ("NC1 at hidden2 ↓", "hidden2", "nc1"),
        ("NC1 at features ↓", "features", "nc1"),
        ("NC2, angles, at features ↓", "features", "nc2_angles"),
        ("NC3 ↓", "features", "nc3"),
        ("NC4 at hidden2, % ↓", "hidden2", "nc4"),
    ],
)
def test_the_table_of_neural_collapse_is_that_of_its_evaluations(line, layer, key):
    page = (RESULTS.parent / "docs" / "evaluating.md").read_text()
    cells = next(one for one in page.splitlines() if one.startswith(f"| {line} |")).split("|")
    found: dict[str, list[float]] = {}
    for run in json.loads(COLLAPSED.read_text())["runs"]:  # a method's in the order of the seeds
        for row in run["evaluation"].get("collapse", ()):
            if row["name"] == f"{layer}, training":
                found.setdefault(run["run"].split("-seed")[0], []).append(row[key])
    plain = found["mnist_1d-mlp-no_mixup"]
    methods = ("no_mixup", "input_mixup", "manifold_mixup")
    for method, cell in zip(methods, cells[2:-1], strict=True):
        values = found[f"mnist_1d-mlp-{method}"]
        assert len(values) == 10
        assert f" {fmean(values):.3f} ± {stdev(values):.3f}" in cell
        if method != "no_mixup":
            gaps = [value - base for value, base in zip(values, plain, strict=True)]
            half = t_quantile(9) * stdev(gaps) / 10**0.5
            shown = [fmean(gaps), fmean(gaps) - half, fmean(gaps) + half]
            text = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*shown).replace("-", "−")
            assert (f"**{text}**" if shown[1] * shown[2] > 0 else f"<br>{text}") in cell


def test_no_gradient_of_the_five_seeds_is_masked():
    runs = [run["evaluation"] for run in json.loads(EVALUATED.read_text())["runs"]]
    attacked = [found["robustness"] for found in runs if "robustness" in found]
    assert len(attacked) == 15
    for _, apgd, _, both, unbounded in attacked:
        assert apgd["survived"] == both["only_square"] == unbounded["survived"] == 0


@pytest.mark.parametrize(
    ("key", "decimals", "heading"),
    [
        ("outside", 1, "% of the squares outside the first direction"),
        ("within", 1, "% of the variance of all states within classes"),
        ("error", 2, "error %"),
    ],
)
def test_the_table_of_spectra_is_that_of_its_file(key, decimals, heading):
    page = (RESULTS / "README.md").read_text()
    lines = page.partition(f"| **{heading} ↓**, 12 units")[1:]
    content = json.loads((RESULTS / "laptop" / "spectra.json").read_text())
    found = {row["label"]: row["ours"]["last"][key] for row in content["rows"]}
    for network, line in zip(NETWORKS, "".join(lines).splitlines(), strict=False):
        ways = ("no mixup", "input mixup α=1", "manifold mixup α=2")
        for way, cell in zip(ways, line.split("|")[2:5], strict=True):
            spread, gap = (found[f"{network}, {way}"][part] for part in ("spread", "difference"))
            numbers = [spread["mean"], spread["std"]]
            assert spread["n"] == 10
            wanted = f"{{:.{decimals}f}} ± {{:.{decimals}f}}".format(*numbers)
            if gap is not None:
                form = f"{{:+.{decimals}f}} [{{:+.{decimals}f}}, {{:+.{decimals}f}}]"
                told = form.format(gap["mean"], gap["low"], gap["high"]).replace("-", "−")
                clear = gap["low"] > 0 or gap["high"] < 0
                wanted += f"<br>**{told}**" if clear else f"<br>{told}"
            assert cell.strip() == wanted
