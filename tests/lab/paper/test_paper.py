"""The paper's tables: recipes, numbers, scales, and the comparison with ours."""

from dataclasses import replace

import pytest

from manifold_mixup.lab import models, paper
from manifold_mixup.lab.evaluate import Reliability, Scores, outliers
from manifold_mixup.lab.evaluate.deform import DEFORMATIONS
from manifold_mixup.lab.evaluate.measures import ERROR, NLL, Measure
from manifold_mixup.lab.paper.numbers import EvaluatedRun, lines
from manifold_mixup.lab.paper.scale import FULL, SCALES, Scale, scale, scaled
from manifold_mixup.lab.paper.tables import Row, Table
from manifold_mixup.lab.recipes.recipe import Recipe
from manifold_mixup.lab.report.paper_table import paper_table
from manifold_mixup.lab.runs.result import Result
from manifold_mixup.lab.training.adversarial import attack_of

EVERY = [paper.table(name) for name in paper.TABLES]


def row(table: str, label: str) -> Row:
    (found,) = (row for row in paper.table(table).rows if row.label == label)
    return found


@pytest.mark.parametrize("table", EVERY, ids=lambda table: table.name)
def test_rows_are_compared_with_a_row_without_mixing_on_the_same_data(table):
    by_label = {row.label: row for row in table.rows}
    assert len(by_label) == len(table.rows)
    assert all(one.label in (one.name, f"{one.group}, {one.name}") for one in table.rows)
    for one in table.rows:
        if one.run is None or not one.base:
            assert one.run is None or one.run.layers == ()
            continue
        base = by_label[one.base].run
        assert base.layers == ()
        same = replace(
            one.run,
            method=base.method,
            layers=(),
            alpha=base.alpha,
            block_gradient=False,
            dropout=0.0,
            cutout=0,
            noise=0.0,
            batch_norm=None,
            weight_decay=base.weight_decay,
            per_sample=False,
            pgd_steps=0,
            pgd_eps=None,
            data=one.run.data.removesuffix("-mixed"),
        )
        assert same == base


@pytest.mark.parametrize("table", EVERY, ids=lambda table: table.name)
def test_recipes_are_distinct_and_of_known_models(table):
    recipes = [row.run for row in table.rows if row.run is not None]
    assert len(set(recipes)) == len(recipes)
    assert len({(run.data, run.model, run.method) for run in recipes}) == len(recipes)
    for run in recipes:
        models.check_name(run.model)
        assert run.loss == "softmax_bce"
        if table.name not in ("figure-1", "figure-2", "figure-5", "spectra", "table-8"):
            assert (run.batch, run.optimizer, run.lr, run.weight_decay) == (100, "sgd", 0.1, 1e-4)


@pytest.mark.parametrize("table", EVERY, ids=lambda table: table.name)
def test_the_papers_numbers_belong_to_columns(table):
    keys = {column.key for column in table.columns}
    assert all(row.paper.keys() <= keys for row in table.rows)


def test_the_protocol_of_tables_1_and_2():
    narrow = row("table-1a", "preact-resnet18, manifold mixup α=2").run
    assert (narrow.epochs, narrow.milestones) == (1200, (400, 800))
    assert (narrow.layers, narrow.alpha) == (("input", "layer1", "layer2"), 2.0)
    assert (narrow.flip, narrow.crop) == (True, 2)
    wide = row("table-1b", "wrn-28-10, manifold mixup α=2").run
    assert (wide.epochs, wide.milestones, wide.layers) == (400, (200, 300), ("input", "layer1"))
    assert row("table-1b", "preact-resnet34, input mixup α=1").run.layers == ("input",)
    assert row("table-2", "preact-resnet34, no mixup").run.flip is False


def test_the_protocol_of_tiny_imagenet():
    run = row("table-3", "manifold mixup α=0.2").run
    assert (run.data, run.epochs, run.milestones) == ("tiny-imagenet", 2000, (1000, 1500))
    assert (run.crop, run.flip) == (4, True)


@pytest.mark.parametrize(
    ("table", "label", "key", "value"),
    [
        ("table-1a", "preact-resnet18, manifold mixup α=2", "error", (2.95, 0.046)),
        ("table-1a", "wrn-28-10, no mixup", "nll", (0.162, 0.004)),
        ("table-1a", "preact-resnet18, AdaMix (quoted)", "error", (3.52,)),
        ("table-1b", "preact-resnet34, input mixup α=1", "nll", (1.039, 0.045)),
        ("table-2", "wrn-28-10, manifold mixup α=2", "error", (2.06, 0.068)),
        ("table-3", "manifold mixup α=0.2", "error", (41.30,)),
        ("table-3", "no mixup", "top5_error", (28.96,)),
        ("table-4", "manifold mixup α=2", "zoom out 140 %", (45.29,)),
        ("table-5", "S = {0, 1, 2}", "error", (2.77,)),
        ("table-6", "input mixup α=0.5", "error", (3.32,)),
        ("table-7", "svhn, manifold mixup α=2", "fgsm", (65.91,)),
        ("table-7", "svhn, adversarial training, PGD-7", "fgsm", (72.80,)),
        ("table-8", "task B, mixed factors", "error", (15.98,)),
        ("table-8", "task C, no mixup", "nll", (4.2871,)),
        ("table-9", "input mixup α=2", "shear ±171.9°", (25.27,)),
        ("preact50", "cutout 16", "error", (4.77, 0.38)),
        ("gradient-block", "manifold mixup α=2, gradient blocked", "error", (4.33,)),
        ("knn", "input mixup α=1", "knn", (5.54,)),
        ("low-data", "manifold mixup α=2", "error", (13.64,)),
        ("spectra", "30 units after one layer, manifold mixup α=2", "s1", (24.60,)),
    ],
)
def test_numbers_of_the_paper(table, label, key, value):
    assert row(table, label).paper[key] == value


@pytest.mark.parametrize(
    ("table", "data"), [("table-1a", "cifar-10"), ("table-1b", "cifar-100"), ("table-7", "svhn")]
)
def test_adversarial_training_is_that_of_madry(table, data, task):
    found = [one.run for one in paper.table(table).rows if "adversarial" in one.label]
    assert all(run is not None and run.pgd_steps == 7 for run in found)
    run = next(run for run in found if run.data == data)
    attack = attack_of(run, task)
    assert (attack.eps, attack.step_size, attack.steps) == (8 / 255, 2 / 255, 7)
    assert attack.projected
    assert attack.random_start


def test_table_4_is_a_part_of_table_9():
    few, all_ = paper.table("table-4"), paper.table("table-9")
    assert len(few.columns) == 8
    assert [column.key for column in all_.columns] == [str(one) for one in DEFORMATIONS]
    for part, whole in zip(few.rows, all_.rows, strict=True):
        assert part.run == whole.run
        assert part.paper.items() <= whole.paper.items()


def test_tables_share_the_runs_they_have_in_common():
    assert row("table-5", "S = {0, 1, 2}").run == row("table-6", "manifold mixup α=2").run
    assert row("table-5", "S = {0}").run == row("table-6", "input mixup α=2").run
    plain = row("table-1a", "preact-resnet18, no mixup").run
    attacked = "adversarial training, PGD-7"
    ours, theirs = (
        row("table-1a", f"preact-resnet18, {attacked}"),
        row("table-7", f"cifar-10, {attacked}"),
    )
    assert ours.run == theirs.run
    assert row("knn", "no mixup").run == row("table-7", "cifar-10, no mixup").run == plain
    assert row("gradient-block", "no mixup").run == row("outliers", "no mixup").run == plain


def test_the_blocked_gradient_differs_in_nothing_else():
    table = paper.table("gradient-block")
    mixed, blocked = (one.run for one in table.rows[-2:])
    assert blocked.block_gradient
    assert replace(blocked, method=mixed.method, block_gradient=False) == mixed


def test_an_unknown_table_or_scale():
    with pytest.raises(ValueError, match=r"no table 'table-1'. Did you mean 'table-1\w'\? Known: "):
        paper.table("table-1")
    with pytest.raises(ValueError, match=r"no scale 'latop'. Did you mean 'laptop'\?"):
        scale("latop")


def test_a_scale_shortens_everything_in_proportion():
    run = row("table-1a", "preact-resnet18, manifold mixup α=2").run
    (short,) = scaled(
        Table("t", "", (ERROR,), (Row("r", run, {}),)), Scale(epochs=60, width=16, examples=5000)
    ).rows
    assert short.run == replace(run, epochs=60, milestones=(20, 40), width=16, examples=5000)


def test_the_full_scale_leaves_the_paper_as_it_is():
    table = paper.table("table-1a")
    assert scaled(table, FULL) == table
    assert str(FULL) == ""


def test_a_scale_never_lengthens_and_keeps_so_many_of_each_class():
    run = replace(row("low-data", "no mixup").run, epochs=10, milestones=(5,))
    table = Table("t", "", (ERROR,), (Row("r", run, {}),))
    (short,) = scaled(table, Scale(epochs=60, examples=5000)).rows
    assert short.run == run
    assert short.run.per_class == 400


def test_a_scale_says_what_it_changes():
    assert str(Scale(epochs=40, examples=10_000)) == "40 epochs, 10,000 training examples"
    assert str(Scale(width=8, lr=0.5)) == "width 8, learning rate 0.5"
    assert all(str(one) for name, one in SCALES.items() if name != "full")


def result(run: Recipe, error: float, best: float) -> Result:
    bins = Reliability((1,), (0.5,), (0.5,))
    scores = Scores(error=error, nll=1.0, ece=0.0, fgsm_accuracy=0.0, reliability=bins)
    return Result(run, 1.0, (), scores, replace(scores, error=best), 1, "")


def found(run: Recipe, errors: dict[int, float]) -> dict[int, EvaluatedRun]:
    return {
        seed: EvaluatedRun(result(replace(run, seed=seed), error, error - 1), {})
        for seed, error in errors.items()
    }


PLAIN, MIXED = Recipe(), Recipe(method="mixed", layers=("input",))
TABLE = Table(
    "t",
    "T",
    (ERROR, NLL),
    (
        Row("plain", PLAIN, {"error": (4.8, 0.066)}),
        Row("mixed", MIXED, {"error": (3.0,)}, "plain"),
        Row("quoted", None, {"error": (2.5,)}, "plain"),
    ),
)


def test_differences_are_of_the_seeds_that_both_rows_have():
    numbers = {
        PLAIN: found(PLAIN, {0: 10.0, 1: 12.0, 3: 50.0}),
        MIXED: found(MIXED, {0: 9.0, 1: 10.0, 2: 70.0}),
    }
    _, mixed, quoted = lines(TABLE, numbers)
    cell = mixed.cells["last"]["error"]
    assert (cell.spread.mean, cell.spread.n) == (pytest.approx(89 / 3), 3)
    assert (cell.difference.mean, cell.difference.n) == (pytest.approx(-1.5), 2)
    assert mixed.cells["best"]["error"].spread.mean == pytest.approx(89 / 3 - 1)
    assert quoted.cells["last"]["error"].spread is None
    assert (mixed.n, quoted.n) == (3, 0)


def test_what_a_model_cannot_be_scored_by_is_left_out():
    column = Measure("x", "X", battery=("noise", "noise"), field="auroc")
    table = Table("t", "T", (column,), (Row("plain", PLAIN, {"x": (0.0,)}),))
    last, best = ({"noise": [{"name": "noise", "auroc": value}]} for value in (80.0, 60.0))
    none = {"noise": [{"name": "noise", "auroc": None}]}  # JSON has null instead of NaN
    evaluations = ({"last": last, "best": best}, {"last": none, "best": none})
    of_seed = {
        seed: EvaluatedRun(result(replace(PLAIN, seed=seed), 1.0, 1.0), evaluation)
        for seed, evaluation in enumerate(evaluations)
    }
    (line,) = lines(table, {PLAIN: of_seed})
    assert [line.cells[when]["x"].spread.mean for when in ("last", "best")] == [80.0, 60.0]
    assert line.cells["last"]["x"].spread.n == 1
    assert "| plain | 0.00 | 80.00 |  | 60.00 |  | 1 |" in paper_table(table, [line])


def test_a_table_shows_what_is_there_so_far():
    text = paper_table(TABLE, lines(TABLE, {PLAIN: found(PLAIN, {0: 10.0})}))
    error = text.split("**NLL")[0].splitlines()
    assert error[0] == "**error % ↓**"
    assert error[4] == "| plain | 4.80 ± 0.066 | 10.00 |  | 9.00 |  | 1 |"
    assert error[5] == "| mixed | 3.00 |  |  |  |  | 0 |"
    assert error[6] == "| quoted | 2.50 |  |  |  |  |  |"
    assert "quoted" not in text.split("**NLL")[1]


def test_each_network_has_a_table_of_its_own():
    table = paper.table("table-1a")
    text = paper_table(table, lines(table, {}))
    error, nll = text.split("**preact-resnet18, NLL ↓**")
    assert error.count("**preact-resnet34, error % ↓**") == 1
    assert "| AdaMix (quoted) | 3.52 |" in error
    assert "AdaMix" not in nll  # the paper has no number for it
    assert error.count("| manifold mixup α=2 |") == nll.count("| manifold mixup α=2 |") == 3


def test_a_difference_is_bold_where_its_interval_excludes_zero():
    plain = found(PLAIN, {0: 10.0, 1: 12.0, 2: 11.0})
    clear = found(MIXED, {0: 5.0, 1: 7.1, 2: 5.9})
    text = paper_table(TABLE, lines(TABLE, {PLAIN: plain, MIXED: clear}))
    assert "| **−5.00 [−5.25, −4.75]** |" in text
    unclear = found(MIXED, {0: 5.0, 1: 17.0, 2: 11.0})
    text = paper_table(TABLE, lines(TABLE, {PLAIN: plain, MIXED: unclear}))
    assert "| +0.00 [−12.42, +12.42] |" in text


def test_more_columns_than_rows_stand_one_below_the_other():
    table = replace(TABLE, rows=TABLE.rows[:1])
    text = paper_table(table, lines(table, {PLAIN: found(PLAIN, {0: 10.0})}))
    assert "**last epoch**; the paper's numbers in brackets" in text
    assert "| | plain (n = 1) |" in text
    assert "| error % ↓ | 10.00<br>(4.80 ± 0.066) |" in text
    assert "| error % ↓ | 9.00<br>(4.80 ± 0.066) |" in text
    own = replace(table, rows=(replace(TABLE.rows[0], paper={}),))
    assert "brackets" not in paper_table(own, lines(own, {}))


def test_outliers_have_every_score_that_is_evaluated():
    found = {column.field for column in paper.table("outliers").columns}
    scores = (*outliers.SCORES, "distance")
    assert found == {f"{score}.{key}" for score in scores for key in ("auroc", "fpr95")}


def test_a_column_finds_its_number_in_a_battery():
    evaluation = {
        "outliers": [
            {"name": "noise", "entropy": {"auroc": 80.0}},
            {"name": "other", "entropy": {"auroc": 60.0}},
        ]
    }
    column = Measure("x", "X", battery=("outliers", "other"), field="entropy.auroc")
    assert column.read(result(PLAIN, 1.0, 1.0).last, evaluation) == 60.0


def test_better_knows_the_direction():
    _, mixed, _ = lines(
        TABLE,
        {
            PLAIN: found(PLAIN, {0: 10.0, 1: 12.0, 2: 11.0}),
            MIXED: found(MIXED, {0: 5.0, 1: 7.1, 2: 5.9}),
        },
    )
    difference = mixed.cells["last"]["error"].difference
    assert ERROR.verdict(difference) == "better"
    assert replace(ERROR, better="higher").verdict(difference) == "worse"


def test_figure_7_is_figure_6_on_another_task():
    sixth, seventh = (paper.table(f"figure-{number}").rows for number in (6, 7))
    other = {"data": "cifar-100", "model": "preact-resnet50"}
    assert [replace(row.run, **other) for row in sixth] == [row.run for row in seventh]
