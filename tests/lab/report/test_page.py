"""The report: its runs, its contents, and its display in a real browser."""

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro

from manifold_mixup.lab import cli, paper
from manifold_mixup.lab import data as datasets
from manifold_mixup.lab.commands import train as train_command
from manifold_mixup.lab.data import arrays
from manifold_mixup.lab.evaluate import Settings
from manifold_mixup.lab.evaluate.statistics import paired_difference, smallest_seen, spread
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.gather import gather
from manifold_mixup.lab.report.page import command, page
from manifold_mixup.lab.report.rows import paper_numbers
from manifold_mixup.lab.report.table import difference_text, spread_text
from manifold_mixup.lab.runs import evaluation as evaluations
from manifold_mixup.lab.runs import folder as run_folder
from manifold_mixup.lab.training.loop import Stopped, train

HOSTILE = "<script>alert('name')</script>"
PARTS = (
    "calibration", "selective", "attacks", "strength", "outliers", "confidence", "interpolation",
    "flatness", "spectra", "collapse",
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def place(task, plain, tmp_path_factory) -> Path:
    """Three methods with two seeds each, one with a hostile name, partly evaluated."""
    folder = tmp_path_factory.mktemp("runs")
    arrays = {"x_train": task.x, "y_train": task.y, "x_test": task.x_test, "y_test": task.y_test}
    np.savez(folder / "blobs.npz", **{name: value.numpy() for name, value in arrays.items()})
    plain = replace(plain, data=str(folder / "blobs.npz"), width=8)
    methods = (
        plain,
        replace(plain, method=HOSTILE, layers=("input",)),
        replace(plain, method="manifold mixup", layers=("input", "hidden1")),
    )
    data = datasets.load(plain.data, root=folder)
    wanted = Settings(layers=("hidden1",), lams=(0.0, 0.25, 0.5, 1.0))
    for run in methods:
        for seed in range(2):
            own = replace(run, seed=seed)
            at = folder / "some" / run_folder.folder_name(own)
            train(own, data, folder=at)
            evaluations.evaluated(at, data, "last", battery=PARTS, settings=wanted)
    return folder


@pytest.fixture(scope="session")
def written(place, tmp_path_factory) -> Path:
    """The page about these runs, as the command writes it; its pictures take seconds."""
    out = tmp_path_factory.mktemp("page") / "report.html"
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(place), "--out", str(out), "--title", HOSTILE])
    assert stop.value.code == 0
    return out


@pytest.fixture(scope="session")
def shown(written) -> str:
    return written.read_text()


def test_runs_are_found_wherever_they_lie(place):
    found = gather([place])
    assert len(found.items) == 6
    assert [row.name for row in found.table.rows][:2] == ["no mixup", "manifold mixup"]
    assert {row.base for row in found.table.rows} == {"", "mlp, no mixup"}
    assert [item.result.run.seed for item in found.items] == [0, 1] * 3
    assert gather([place / "some", *place.glob("some/*")]).items == found.items
    assert set(PARTS) <= found.items[0].evaluation.keys()


def test_numbers_and_differences_are_those_of_the_runs(place, shown):
    found = gather([place])
    of = {
        method: [item.result.last for item in found.items if item.result.run.method == method]
        for method in ("no mixup", "manifold mixup")
    }
    plain, mixed = ([scores.nll for scores in all_] for all_ in of.values())
    assert spread_text(spread(mixed), 3) in shown
    mean, _, interval = difference_text(paired_difference(mixed, plain), 3).partition(" ")
    assert f"{mean}<br>{interval}" in shown


def test_the_power_of_the_seeds_stands_below_the_comparison(place, shown):
    found = gather([place])
    of = {
        method: [item.result.last for item in found.items if item.result.run.method == method]
        for method in ("no mixup", "manifold mixup")
    }
    plain, mixed = ([scores.nll for scores in all_] for all_ in of.values())
    part = shown.split('id="comparison"')[1].split("<section")[0]
    _, _, power = part.partition("Smallest difference to the row without mixing")
    assert f"<td>{smallest_seen(paired_difference(mixed, plain)):.3f}</td>" in power
    assert "no mixup</th>" not in power
    assert "four of five such reports would show a true difference" in part


def test_runs_on_other_examples_of_the_same_name_are_not_averaged(task, plain, tmp_path):
    run = replace(plain, epochs=1)
    train(run, task, folder=tmp_path / "a")
    train(replace(run, seed=1), replace(task, x_test=task.x_test + 1), folder=tmp_path / "b")
    with pytest.raises(ValueError, match=r"a and .*b both name the data .*their examples differ"):
        gather([tmp_path])
    assert len(gather([tmp_path / "a"]).items) == 1
    part = arrays.take(task, 20)  # another subset, as its recipe says
    train(replace(run, examples=20), part, folder=tmp_path / "a" / "part")
    assert len(gather([tmp_path / "a"]).items) == 2


def test_methods_that_fgsm_cannot_move_are_named(task, plain, tmp_path):
    run = replace(plain, epochs=1)
    train(run, task, folder=tmp_path)
    (file,) = tmp_path.rglob("result.json")
    content = json.loads(file.read_text())
    assert content["result"]["last"]["fgsm_unmoved"] == 0
    assert "FGSM leaves some" not in page(gather([tmp_path]), title="one")
    content["result"]["last"]["fgsm_unmoved"] = 12.3
    file.write_text(json.dumps(content))
    assert "that are predicted right, 12.3 % with no mixup" in page(gather([tmp_path]), title="one")


def test_one_seed_has_no_power(task, plain, tmp_path):
    methods = (plain, replace(plain, method="input mixup", layers=("input",)))
    for k, run in enumerate(methods):
        train(replace(run, epochs=1), task, folder=tmp_path / str(k))
    assert "Smallest difference" not in page(gather([tmp_path]), title="one")


def test_the_numbers_of_what_the_paper_claims(place, shown):
    of = [item.evaluation for item in gather([place]).items[:2]]
    for k, label in enumerate(("off the data", "test set")):
        greatest = [one["confidence"][k]["greatest"] for one in of]
        assert f"{label}</th><td>{spread_text(spread(greatest), 3)}</td>" in shown
    for key in ("outside", "within", "s1_share"):
        flat = [one["flatness"][0][key] for one in of]
        assert f"<td>{spread_text(spread(flat), 1)}</td>" in shown


def test_the_numbers_of_neural_collapse(place, shown):
    of = [item.evaluation["collapse"] for item in gather([place]).items[:2]]
    part = shown.split('id="collapse"')[1]
    assert part.count('<th scope="col">NC3</th>') == 2  # at the features alone
    for k in range(4):
        for key, digits in (("nc1", 3), ("nc2_angles", 3), ("nc3", 3), ("nc4", 1)):
            values = [one[k][key] for one in of]
            if None not in values:
                assert f"<td>{spread_text(spread(values), digits)}</td>" in part


def test_the_numbers_of_the_pictures(place, shown):
    items = gather([place]).items[:2]
    for k in (0, 4, 6):
        risk = [100 - item.evaluation["strength"][0]["accuracy"][k] for item in items]
        assert f"<td>{spread_text(spread(risk), 1)}</td>" in shown
    for epoch in (1, 2, 3):
        nll = [item.result.curve[epoch - 1].nll for item in items]
        assert f"<td>{spread_text(spread(nll), 3)}</td>" in shown
    assert shown.count(f"Test examples: {items[0].evaluation['examples']}.") == len(PARTS)
    of = [item.evaluation for item in items]
    for k in range(2):
        accuracy = [one["attacks"][k]["accuracy"] for one in of]
        assert (
            f"{of[0]['attacks'][k]['stated']}</th><td>{spread_text(spread(accuracy), 1)}" in shown
        )
    for k in range(len(of[0]["outliers"])):
        for score in ("confidence", "entropy", "energy", "distance"):
            for key in ("auroc", "fpr95"):
                values = [one["outliers"][k][score][key] for one in of]
                assert f"noise (far)</th><td>{spread_text(spread(values), 1)}</td>" in shown
    for k, lam in enumerate(("0", "0.25", "0.5", "1")):
        mixed = [one["interpolation"][0]["nll"][k] for one in of]
        assert f"λ = {lam}</th><td>{spread_text(spread(mixed), 3)}</td>" in shown
    outside = [one["spectra"][0]["uncentred"]["outside"] for one in of]
    assert f"<td>{spread_text(spread(outside), 2)}</td>" in shown
    seen = [one["spectra"][1]["seen"] for one in of]
    assert f"<td>{spread_text(spread(seen), 2)}</td>" in shown
    assert shown.count("in the row space of the classifier</th>") == 1
    bins = [item.result.last.reliability for item in items]
    k = max(range(15), key=lambda k: bins[0].count[k])
    count = sum(one.count[k] for one in bins)
    right = sum(one.count[k] * one.accuracy[k] for one in bins)
    assert f"<td>{100 * right / count:.1f} % of {count}</td>" in shown


def test_calibration_and_risk_by_coverage(place, shown):
    of = [item.evaluation for item in gather([place]).items[:2]]
    for k, digits in enumerate((3, 3)):
        nll = [one["calibration"][k]["nll"] for one in of]
        assert f"NLL, nats</th><td>{spread_text(spread(nll), digits)}</td>" in shown
        for key, said in {
            "ece_if_calibrated": "ECE of calibrated predictions, %",
            "rms_gap": "RMS gap, debiased, %",
            "rms_high": "RMS gap, 95 % interval to",
            "classwise_ece": "classwise ECE, %",
        }.items():
            values = [one["calibration"][k][key] for one in of]
            assert f"{said}</th><td>{spread_text(spread(values), 2)}</td>" in shown
    means = [sum(one["calibration"][1]["temperatures"]) / 2 for one in of]
    assert f"mean of the halves</th><td>{spread_text(spread(means), 2)}</td>" in shown
    for k, share in ((1, "10 %"), (19, "100 %")):
        risk = [one["selective"][0]["risk"][k] for one in of]
        assert f"{share}</th><td>{spread_text(spread(risk), 2)}</td>" in shown
    excess = [one["selective"][0]["excess_aurc"] for one in of]
    assert f"excess</th><td>{spread_text(spread(excess), 2)}</td>" in shown


def test_evaluations_without_new_numbers(task, plain, tmp_path):
    """Those of an older version have two scores of outliers; some models have no temperature."""
    train(plain, task, folder=tmp_path / "one")
    score = {"auroc": 12.5, "fpr95": 37.5}
    old = {"outliers": [{"name": "noise", "confidence": score, "entropy": score}]}
    bare = {"calibration": [{"name": "after scaling", "note": "no temperature: all are right"}]}
    path = tmp_path / "one" / "evaluation-last-0.json"
    path.write_text(json.dumps({"evaluation": old | bare | {"examples": 80}}))
    text = page(gather([tmp_path]), title="")
    assert text.count("noise</th><td>12.5</td>") == text.count("noise</th><td>37.5</td>") == 2
    assert "AUROC of the energy" not in text
    assert "no mixup: no temperature: all are right" in text
    assert "RMS gap, debiased" not in text


def test_numbers_that_were_not_finite_are_dashes_with_the_reason(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "one")
    note = "3 of the 80 test examples have logits that are NaN or infinite"
    ranked = {"aurc": None, "best_aurc": 1.0, "excess_aurc": None}
    curve = {"coverage": [0.5, 1.0], "risk": [None, None]}
    rows = {
        "selective": [{"name": "test set", **ranked, **curve, "note": note}],
        "calibration": [{"name": "before scaling", "ece": None, "nll": None, "note": note}],
        "outliers": [{"name": "noise", "kind": "far", "note": note}],
    }
    path = tmp_path / "one" / "evaluation-last-0.json"
    path.write_text(json.dumps({"evaluation": rows | {"examples": 80}}))
    text = page(gather([tmp_path]), title="")
    assert "AURC</th><td>–</td>" in text
    assert "ECE, %</th><td>–</td>" in text
    assert text.count(note) == 3


@pytest.mark.thorough
def test_deformed_images_as_outliers_are_folded_away_beside_others(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "one")
    score = {"auroc": 12.5, "fpr95": 37.5}
    shifted = {"name": "zoom out 20 %", "kind": "shifted", "confidence": score}
    noise = {"name": "noise", "kind": "far", "confidence": score}
    path = tmp_path / "one" / "evaluation-last-0.json"
    fold = "<summary>The same for deformed test images</summary>"
    for rows, folded in (([shifted, noise], True), ([shifted], False)):
        evaluation = {"outliers": rows, "examples": 80}
        path.write_text(json.dumps({"evaluation": evaluation}))
        text = page(gather([tmp_path]), title="")
        assert (fold in text) == folded
        assert text.count("zoom out 20 % (shifted)</th>") == 2
        before, _, after = text.partition(fold)
        assert before.count("noise (far)</th>") == (2 if folded else 0)
        inside = after.partition("</details>")[0] if folded else text
        assert inside.count("zoom out 20 % (shifted)</th>") == 2


def test_a_score_that_is_not_there_leaves_its_cell_empty(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "one")
    path = tmp_path / "one" / "result.json"
    content = json.loads(path.read_text())
    content["result"]["last"]["brier"] = None
    path.write_text(json.dumps(content))
    assert "<td></td>" in page(gather([tmp_path]), title="")


def test_what_one_method_has_and_another_has_not(task, plain, tmp_path):
    """Methods evaluated with other settings have other rows; missing cells are empty."""
    rows = {"no mixup": ["a", "b"], "mixed": ["b", "c"], "not evaluated": []}
    lams = {"no mixup": [0.0, 0.5], "mixed": [0.0, 1.0]}
    for method, names in rows.items():
        run = replace(plain, method=method, layers=() if method == "no mixup" else ("input",))
        at = tmp_path / method
        train(run, task, folder=at)
        if names:
            deformed = [{"name": name, "accuracy": 12.5} for name in names]
            between = [{"name": "layer", "lam": lams[method], "nll": [0.125, 0.375]}]
            parts = {"deformations": deformed, "examples": 100 if "c" in names else 2000}
            (at / "evaluation-last-0.json").write_text(json.dumps({"evaluation": parts}))
            parts = {"interpolation": between, "examples": 50}
            (at / "evaluation-last-1.json").write_text(json.dumps({"evaluation": parts}))
    text = page(gather([tmp_path]), title="")
    for cells in ("a</th><td>12.5</td><td></td>", "b</th><td>12.5</td><td>12.5</td>"):
        assert cells in text
    assert "c</th><td></td><td>12.5</td>" in text
    assert "Test examples: 100 to 2,000." in text
    assert "Test examples: 50." in text
    assert "λ = 0.5</th><td>0.375</td><td></td>" in text  # the other method does not have this λ


def test_of_two_evaluations_the_later_counts(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "one")
    for age, name in enumerate("ba"):
        path = tmp_path / "one" / f"evaluation-last-{name}.json"
        path.write_text(json.dumps({"evaluation": {"part": name}}))
        os.utime(path, (age, age))
    (item,) = gather([tmp_path]).items
    assert item.evaluation == {"part": "a"}
    os.utime(tmp_path / "one" / "evaluation-last-b.json", (9, 9))
    (item,) = gather([tmp_path]).items
    assert item.evaluation == {"part": "b"}


def test_what_an_earlier_version_evaluated_is_named(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "one")
    for number, part in ((3, "attacks"), (evaluations._FORMAT, "knn")):
        content = {"asked": {"format": number}, "evaluation": {part: [], "data": "c"}}
        (tmp_path / "one" / f"evaluation-last-{number}.json").write_text(json.dumps(content))
    (item,) = gather([tmp_path]).items
    assert item.outdated == ("attacks",)
    text = page(gather([tmp_path]), title="one")
    assert "numbers and notes may differ from those of this one: attacks." in text


def test_what_stands_in_names_is_shown_and_not_run(shown):
    assert "<script" not in shown
    assert "&lt;script&gt;alert(&#39;name&#39;)&lt;/script&gt;</h1>" in shown
    assert "&lt;script&gt;alert(&#39;name&#39;)&lt;/script&gt;</th>" in shown


def test_rows_of_one_name_say_in_what_they_differ(task, plain, tmp_path):
    longer = replace(plain, method="mixed", layers=("input",), epochs=2)
    for run in (replace(plain, epochs=1), replace(plain, epochs=2), longer):
        train(run, task, folder=tmp_path / str(run.epochs) / run.method)
    table = gather([tmp_path]).table
    assert [row.label for row in table.rows] == [
        "mlp, no mixup (epochs 1)",
        "mlp, no mixup (epochs 2)",
        "mlp, mixed",
    ]
    assert table.rows[2].base == "mlp, no mixup (epochs 2)"  # the most similar recipe


def test_the_papers_numbers_are_found_for_its_rows_however_scaled():
    for row in paper.table("table-1a").rows:
        if row.run is not None:
            assert paper_numbers(replace(row.run, epochs=3, width=8)) == row.paper
            assert paper_numbers(replace(row.run, data="mnist-1d")) == {}


def test_the_papers_numbers_stand_beside_ours(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "one")
    found = gather([tmp_path])
    known = replace(found.table.rows[0], paper={"error": (2.95, 0.046)})
    rows = (known, *found.table.rows[1:])
    text = page(replace(found, table=replace(found.table, rows=rows)), title="")
    assert "the paper&#39;s error %" in text
    assert "2.95 ± 0.046" in text


@pytest.mark.parametrize(
    "run",
    [
        Recipe(),
        Recipe(layers=("input", "hidden1"), milestones=(3, 5), per_sample=True, width=None),
        Recipe(
            method="a 'quoted' name", data="a file.npz", batch_norm=False, flip=True, examples=7
        ),
    ],
)
def test_the_command_of_a_recipe_gives_that_recipe(run):
    words = shlex.split(command(run))[2:]
    options = tyro.cli(train_command.Options, default=train_command.defaults(words), args=words)
    assert options.run == run


def bad(tmp_path, capsys, *arguments):
    out = tmp_path / "out" / "report.html"
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", *map(str, arguments), "--out", str(out)])
    assert stop.value.code == cli.BAD_INPUT
    assert not out.exists()
    return capsys.readouterr().err


def test_bad_input_is_described_and_nothing_is_written(place, task, plain, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no folder was given" in bad(tmp_path, capsys)
    assert "there is no folder" in bad(tmp_path, capsys, tmp_path / "nowhere")
    assert "no finished run in" in bad(tmp_path, capsys, tmp_path / "empty")
    train(plain, task, folder=tmp_path / "other")
    message = bad(tmp_path, capsys, place, tmp_path / "other")
    assert "the runs have different data: " in message
    assert "Make one report per data set" in message
    train(plain, task, folder=tmp_path / "damaged" / "one")
    (tmp_path / "damaged" / "one" / "evaluation-last-0.json").write_text("{")
    assert "evaluation-last-0.json is damaged" in bad(tmp_path, capsys, tmp_path / "damaged")


def test_unfinished_runs_are_named(task, plain, tmp_path):
    train(plain, task, folder=tmp_path / "done")
    with pytest.raises(Stopped):
        train(replace(plain, seed=1), task, folder=tmp_path / "cut", stop=lambda: True)
    text = page(gather([tmp_path]), title="")
    assert "Unfinished runs, which are not in this report: cut." in text


def test_spirals_show_their_boundaries(tmp_path):
    data = datasets.load("spirals", root=tmp_path)
    run = Recipe(data="spirals", model="spiral-mlp", width=8, epochs=1)
    train(run, data, folder=tmp_path / "one")
    text = page(gather([tmp_path]), title="")
    assert 'id="boundaries"' in text
    assert "% of the plane" in text


def test_the_spirals_of_a_comparison_stand_beside_its_data(tmp_path, task, plain):
    data = datasets.load("spirals", root=tmp_path)
    spirals = Recipe(method="spirals, no mixup", data="spirals", model="spiral-mlp", epochs=1)
    train(replace(spirals, width=8), data, folder=tmp_path / "one")
    train(replace(plain, width=8, epochs=1), task, folder=tmp_path / "two")
    found = gather([tmp_path])
    assert [item.result.run.data for item in found.items] == ["blobs"]
    assert [item.result.run.data for item in found.spirals] == ["spirals"]
    text = page(found, title="")
    assert 'id="boundaries"' in text
    assert "spirals, no mixup" in text.split('id="boundaries"')[1]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        options = ["--no-sandbox", "--disable-background-networking"]
        yield play.chromium.launch(executable_path=CHROMIUM, args=options)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (400, "light"),
        (1200, "dark"),
        pytest.param(400, "dark", marks=pytest.mark.thorough),
        pytest.param(1200, "light", marks=pytest.mark.thorough),
    ],
)
def test_a_real_browser_shows_it(written, browser, width, scheme):
    said, asked = [], []
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    tab.on("request", lambda request: asked.append(request.url.partition(":")[0]))
    tab.goto(written.as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the comparison"
    for summary in tab.locator("summary").all():
        summary.click()
    assert said == []
    assert set(asked) <= {"file", "data"}
    assert tab.title() == HOSTILE
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    shown = "[...document.images].every(one => one.complete && one.naturalWidth > 0)"
    assert tab.evaluate(shown)
    assert tab.locator("img").count() >= 6
    assert tab.locator("img:not([alt])").count() == 0
    # Numbers follow each picture; tables that are too wide can be scrolled with the keyboard.
    assert tab.locator(".pictures + details table").count() >= 4
    assert tab.locator("table").count() == tab.locator("[tabindex='0'] table").count()
    paper_colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper_colour == "rgb(255, 255, 255)") == (scheme == "light")
    tab.close()
