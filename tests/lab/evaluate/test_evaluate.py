"""The whole battery on small models: its results, and that the models do not change."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifold_mixup import ManifoldMixup
from manifold_mixup.lab import models
from manifold_mixup.lab.data import Data
from manifold_mixup.lab.evaluate import (
    BUDGETED,
    CORRUPTIONS,
    DEFORMATIONS,
    PARTS,
    Settings,
    autoattack,
    battery_of,
    evaluate,
    scores,
)
from manifold_mixup.lab.evaluate.attacks import authors_pgd, unbounded
from manifold_mixup.lab.evaluate.calibration import calibration
from manifold_mixup.lab.evaluate.deform import deform
from manifold_mixup.lab.evaluate.inference import logits
from manifold_mixup.lab.evaluate.interpolation import interpolated_nll
from manifold_mixup.lab.evaluate.metrics import error
from manifold_mixup.lab.evaluate.neighbours import features, knn_error
from manifold_mixup.lab.evaluate.outliers import confidence, negative_energy, separation
from manifold_mixup.lab.evaluate.selective import risk_coverage
from manifold_mixup.lab.evaluate.temperature import temperature

FEW = Settings(lams=(0.0, 0.5, 1.0), deformations=DEFORMATIONS[::8], corruptions=CORRUPTIONS[::12])


ELSEWHERE = ("cifar-c", "cifar-10.1", *BUDGETED)  # tested in test_published, test_robustness
FOR_IMAGES = [part for part in PARTS if part not in ("plane", *ELSEWHERE)]


@pytest.fixture(scope="session")
def pictures() -> Data:
    """uint8 images of three classes, with a bright stripe at one of three heights."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(240) % 3
    x = torch.randint(120, (240, 3, 9, 9), generator=generator)
    x[torch.arange(240), :, 3 * y + 1] += 60
    parts = {"x": x[:160], "x_test": x[160:]}
    return Data(
        name="stripes",
        **{key: part.to(torch.uint8) for key, part in parts.items()},
        y=y[:160],
        y_test=y[160:],
        classes=3,
        eps=8 / 255,
        space="pixel space [0, 1]",
        bounds=(0.0, 1.0),
    )


@pytest.fixture
def cnn(pictures) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return models.build("cnn", pictures, width=4)


def test_every_part_says_what_it_measured(cnn, pictures):
    result = evaluate(cnn, pictures, battery=FOR_IMAGES, settings=FEW)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(FOR_IMAGES) < set(result)
    assert result["data"] == "stripes"
    assert result["examples"] == 80
    assert [row["name"] for row in result["attacks"]] == ["FGSM", "PGD-20", "FGSM of the authors"]
    assert [row["space"] for row in result["attacks"]] == [
        *["pixel space [0, 1]"] * 2,
        "standardised units",
    ]
    assert [row["eps"] for row in result["attacks"]] == [8 / 255, 8 / 255, 0.03]
    assert [row["clipped"] for row in result["attacks"]] == [True, True, False]
    assert result["attacks"][1]["stated"] == (
        "PGD-20: ε = 0.03137, 20 steps of 0.007843 in pixel space [0, 1], random start, "
        "cross-entropy"
    )
    assert [row["name"] for row in result["deformations"]] == [
        "rotation ±20.0°",
        "shear ±171.9°",
        "zoom out 180 %",
    ]
    assert result["deformations"][0]["interpolation"] == "nearest"
    assert [(row["name"], row["amount"]) for row in result["corruptions"]] == [
        ("gaussian noise 1", 0.04),
        ("contrast 3", 0.4),
        ("jpeg 5", 40),
    ]
    assert [(row["name"], row["kind"]) for row in result["outliers"]] == [
        ("uniform noise", "far"),
        ("Gaussian noise", "far"),
        ("rotation ±20.0°", "shifted"),
        ("shear ±171.9°", "shifted"),
        ("zoom out 180 %", "shifted"),
    ]
    assert [row["name"] for row in result["calibration"]] == ["before scaling", "after scaling"]
    assert result["selective"][0]["coverage"][-1] == 1
    assert result["neighbours"][0]["k"] == 5
    assert [row["name"] for row in result["interpolation"]] == ["input", "stage1", "stage2"]
    assert result["interpolation"][0]["lam"] == [0.0, 0.5, 1.0]
    assert [row["name"] for row in result["spectra"]] == ["stage1", "stage2", "features"]


def test_the_parts_agree_with_each_other_and_with_scores(cnn, pictures):
    result = evaluate(cnn, pictures, settings=FEW)
    x, y = pictures.x_test, pictures.y_test
    expected = scores(cnn, x, y, eps=pictures.eps, bounds=pictures.bounds)
    clean, fgsm = result["clean"][0], result["attacks"][0]
    assert (clean["error"], clean["nll"], clean["ece"]) == (
        expected.error,
        expected.nll,
        expected.ece,
    )
    assert clean["brier"] == expected.brier
    assert fgsm["accuracy"] == expected.fgsm_accuracy
    for row in result["interpolation"]:
        assert row["nll"][0] == pytest.approx(clean["nll"])
        assert row["nll"][-1] == pytest.approx(clean["nll"])


def test_every_number_has_a_unit(cnn, pictures):
    result = evaluate(cnn, pictures, battery=FOR_IMAGES, settings=FEW)
    choices = {
        *("name", "eps", "space", "steps", "step_size", "projected", "random_start", "loss"),
        *("clipped", "interpolation", "fill", "amount", "k", "metric", "layer", "reliability"),
        *("stated", "kind", "note", "fitted"),
    }
    keys = {key for part in FOR_IMAGES for row in result[part] for key in row} - choices
    scores = {"confidence", "entropy", "energy", "distance"}
    assert keys - scores - {"centred", "uncentred"} < set(result["units"])
    spectra = [row[kind] for row in result["spectra"] for kind in ("centred", "uncentred")]
    assert all(set(found) < set(result["units"]) for found in spectra)
    separations = [row[score] for row in result["outliers"] for score in scores]
    used = {"k", "examples", "layer"}
    assert all(
        set(found) - used == {"auroc", "fpr95"} < set(result["units"]) for found in separations
    )


def test_a_row_is_the_same_alone_as_in_company(cnn, pictures):
    everything = evaluate(cnn, pictures, battery=FOR_IMAGES, settings=FEW)
    for part in FOR_IMAGES:
        alone = evaluate(cnn, pictures, battery=[part], settings=FEW)
        assert alone[part] == everything[part]


def test_the_seed_decides(cnn, pictures):
    first, second = (
        evaluate(cnn, pictures, battery=["interpolation"], settings=replace(FEW, seed=seed))
        for seed in (0, 1)
    )
    assert first["interpolation"] != second["interpolation"]


def test_the_model_is_left_as_it_was(cnn, pictures):
    mixup = ManifoldMixup(cnn.train(), ["stage1"], seed=0)
    cnn.stage2.eval()  # frozen by its owner
    modes = [module.training for module in cnn.modules()]
    before = {name: value.clone() for name, value in cnn.state_dict().items()}
    randomness = torch.get_rng_state()
    evaluate(cnn, pictures, settings=FEW)
    assert [module.training for module in cnn.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in cnn.state_dict().items())
    assert all(parameter.grad is None for parameter in cnn.parameters())
    assert all(parameter.requires_grad for parameter in cnn.parameters())
    assert torch.equal(torch.get_rng_state(), randomness)
    assert mixup.state_dict()["step"] == 0
    cnn.eval()
    assert evaluate(cnn, pictures, settings=FEW) == evaluate(cnn.train(), pictures, settings=FEW)


def test_the_mode_comes_back_after_an_error(cnn, pictures):
    odd = replace(pictures, x_test=pictures.x_test[:, :1])
    with pytest.raises(RuntimeError):
        evaluate(cnn.train(), odd, battery=["clean"])
    assert all(module.training for module in cnn.modules())


def test_vectors_have_all_parts_but_those_for_images(task):
    model = models.build("mlp", task, width=8)
    result = evaluate(model, task, settings=FEW)
    without = {"deformations", "corruptions", "plane", "spectra", *ELSEWHERE}
    assert set(PARTS) - set(result) == without
    assert len(result["outliers"]) == 2
    assert result["attacks"][0]["space"] == "units"
    assert not result["attacks"][0]["clipped"]


@pytest.mark.parametrize("std", [None, 0.25, (0.2, 0.3, 0.4)])
def test_a_model_of_ones_own_states_its_std(pictures, std):
    model = nn.Sequential(nn.Flatten(), nn.Linear(243, 3))
    rows = evaluate(model, pictures, battery=["attacks"], settings=replace(FEW, std=std))["attacks"]
    authors = [] if std is None else ["FGSM of the authors"]
    assert [row["name"] for row in rows] == ["FGSM", "PGD-20", *authors]


def test_the_attacks_can_be_chosen(cnn, pictures):
    chosen = replace(FEW, attacks=(authors_pgd(steps=3), unbounded(steps=40, step_size=0.1)))
    result = evaluate(cnn, pictures, battery=["attacks"], settings=chosen)
    assert [row["eps"] for row in result["attacks"]] == [0.03, None]
    assert [row["steps"] for row in result["attacks"]] == [3, 40]
    assert {row["loss"] for row in result["attacks"]} == {"bce of softmax"}


def test_other_data_sets_are_compared(cnn, pictures):
    strangers = {"black": torch.zeros(7, 3, 9, 9, dtype=torch.uint8), "same": pictures.x_test}
    chosen = replace(FEW, unknown=strangers)
    rows = evaluate(cnn, pictures, battery=["outliers"], settings=chosen)["outliers"]
    assert [row["name"] for row in rows][:2] == ["black", "same"]
    assert rows[1]["confidence"]["auroc"] == pytest.approx(50)
    assert rows[0]["confidence"] != rows[1]["confidence"]


def after_a_fashion(data: Data) -> nn.Module:
    """A model of the stripes that is mostly right, and far too sure."""
    head = nn.Linear(3, 3, bias=False)
    head.weight.data = 30 * torch.eye(3)
    head.requires_grad_(False)

    class Rows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((1, 3))[:, 1::3]

    return nn.Sequential(Rows(), nn.Dropout(0.0), head)


def test_calibration_before_and_after_temperature_scaling(pictures):
    data = replace(
        pictures, y_test=pictures.y_test.roll(1).where(torch.arange(80) % 5 == 0, pictures.y_test)
    )
    model = after_a_fashion(data)
    before, after = evaluate(model, data, battery=["calibration"], settings=FEW)["calibration"]
    z, y = logits(model, data.x_test), data.y_test
    first, second = torch.randperm(80, generator=torch.Generator().manual_seed(0)).tensor_split(2)
    fitted = [temperature(z[second], y[second]), temperature(z[first], y[first])]
    assert after["temperatures"] == fitted
    assert "twofold over the test set" in after["fitted"]
    scaled = z.double()
    for rows, one in zip((first, second), fitted, strict=True):
        scaled[rows] /= one
    for row, outputs in ((before, z), (after, scaled)):
        own = calibration(outputs, y, generator=torch.Generator().manual_seed(0))
        expected = asdict(own) | {
            "reliability": {k: list(v) for k, v in asdict(own.reliability).items()}
        }
        assert {name: row[name] for name in expected} == expected
    assert min(fitted) > 1
    assert after["nll"] < before["nll"]


def test_a_model_without_a_best_temperature_says_why(pictures):
    model = after_a_fashion(pictures)
    right = replace(pictures, y_test=logits(model, pictures.x_test).argmax(1))
    before, after = evaluate(model, right, battery=["calibration"], settings=FEW)["calibration"]
    assert set(after) == {"name", "note"}
    assert "no temperature: all 40 predictions" in after["note"]
    assert before["nll"] >= 0


def test_too_few_examples_for_a_temperature(pictures, cnn):
    few = replace(pictures, x_test=pictures.x_test[:79], y_test=pictures.y_test[:79])
    assert "calibration" not in battery_of(None, few)
    assert "calibration" in battery_of(None, pictures)
    said = r"needs 40 in each, but 79 examples of stripes are tested: 80 are enough"
    with pytest.raises(ValueError, match=said):
        evaluate(cnn, few, battery=["calibration"])


def test_the_risk_of_the_most_confident_predictions(cnn, pictures):
    (row,) = evaluate(cnn, pictures, battery=["selective"], settings=FEW)["selective"]
    z = logits(cnn.eval(), pictures.x_test)
    expected = risk_coverage(confidence(z), z.argmax(1) != pictures.y_test)
    assert row["aurc"] == expected.aurc
    assert row["risk"] == list(expected.risk)
    assert row["risk"][-1] == error(z, pictures.y_test)


def test_outliers_by_energy_and_by_distance_to_the_training_set(cnn, pictures):
    chosen = replace(FEW, unknown={"black": torch.zeros(7, 3, 9, 9)}, features="stage1")
    row = evaluate(cnn, pictures, battery=["outliers"], settings=chosen)["outliers"][0]
    known, black = (logits(cnn.eval(), x) for x in (pictures.x_test, chosen.unknown["black"]))
    assert row["energy"] == asdict(separation(negative_energy(known), negative_energy(black)))
    train, test, unknown = (
        F.normalize(features(cnn, x, layer="stage1").double())
        for x in (pictures.x, pictures.x_test, chosen.unknown["black"])
    )
    by_distance = [-torch.cdist(x, train).sort(1).values[:, 49] for x in (test, unknown)]
    assert row["distance"] == {
        **{key: pytest.approx(value) for key, value in asdict(separation(*by_distance)).items()},
        "k": 50,
        "examples": 160,
        "layer": "stage1",
    }
    assert row["kind"] is None


def test_a_model_without_features_has_no_distances_but_the_other_scores(pictures):
    model = nn.Sequential(nn.Conv2d(3, 3, 9), nn.Flatten())
    rows = evaluate(model, pictures, battery=["outliers"], settings=FEW)["outliers"]
    assert set(rows[0]) == {"name", "kind", "confidence", "entropy", "energy", "note"}
    assert "no distances: the last linear layer ran 0 times" in rows[0]["note"]


def test_distances_take_no_further_pass(pictures):
    passes = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(243, 3))
    model.register_forward_pre_hook(lambda _, args: passes.append(len(args[0])))
    evaluate(model, pictures, battery=["clean", "deformations", "outliers"], settings=FEW)
    # Two examples whose outputs are looked at, the test set, three deformations, two kinds of
    # noise, and the training set.
    assert sorted(passes) == [2] + [80] * 6 + [160]


def test_every_setting_reaches_its_part(cnn, pictures):
    rotation = DEFORMATIONS[1]
    settings = Settings(
        seed=3,
        deformations=(rotation,),
        interpolation="bilinear",
        fill=90,
        unknown={"black": torch.zeros(7, 3, 9, 9)},
        features="stage1",
        k=3,
        metric="cosine",
        layers=("stage1",),
        lams=(0.0, 0.3),
    )
    parts = ("deformations", "outliers", "neighbours", "interpolation")
    result = evaluate(cnn.eval(), pictures, battery=parts, settings=settings)
    x, y = pictures.x_test, pictures.y_test

    def drawn():
        return torch.Generator().manual_seed(3)

    there = deform(x, rotation, generator=drawn(), interpolation="bilinear", fill=90)
    assert result["deformations"][0]["accuracy"] == 100 - error(logits(cnn, there), y)
    known, black, turned = (
        confidence(logits(cnn, part)) for part in (x, settings.unknown["black"], there)
    )
    assert result["outliers"][0]["confidence"] == asdict(separation(known, black))
    assert result["outliers"][-1]["confidence"] == asdict(separation(known, turned))
    train, test = (features(cnn, part, layer="stage1") for part in (pictures.x, x))
    wrong = knn_error(train, pictures.y, test, y, k=3, metric="cosine")
    assert result["neighbours"][0]["error"] == wrong
    curve = interpolated_nll(cnn, x, y, layers=["stage1"], lams=(0.0, 0.3), generator=drawn())
    assert result["interpolation"] == [
        {"name": "stage1", "lam": [0.0, 0.3], "nll": list(curve["stage1"])}
    ]


def test_the_deformed_images_of_two_parts_are_made_once(cnn, pictures, monkeypatch):
    made = []

    def counted(x, deformation, **options):
        made.append(deformation)
        return deform(x, deformation, **options)

    monkeypatch.setattr("manifold_mixup.lab.evaluate.battery.subject.deform", counted)
    evaluate(cnn, pictures, battery=["deformations", "outliers"], settings=FEW)
    assert made == list(FEW.deformations)


def test_progress_counts_to_the_end(cnn, pictures):
    seen = []
    evaluate(
        cnn,
        pictures,
        battery=["clean", "deformations"],
        settings=FEW,
        progress=lambda *step: seen.append(step),
    )
    assert seen == [
        (1, 4, "clean: test set"),
        (2, 4, "deformations: rotation ±20.0°"),
        (3, 4, "deformations: shear ±171.9°"),
        (4, 4, "deformations: zoom out 180 %"),
    ]


def test_a_part_that_cannot_run_is_named_before_any_runs(task, cnn, pictures):
    with pytest.raises(ValueError, match=r"no part 'atacks'\. Did you mean 'attacks'\? Known: "):
        evaluate(cnn, pictures, battery=["clean", "atacks"])
    with pytest.raises(ValueError, match=r"inputs of blobs have shape \(6,\)"):
        evaluate(models.build("mlp", task, width=4), task, battery=["deformations"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_model_on_a_gpu_scores_as_on_the_cpu(cnn, pictures):
    here = evaluate(cnn, pictures, settings=FEW)
    there = evaluate(cnn.cuda(), pictures, settings=FEW)
    assert there["clean"][0]["nll"] == pytest.approx(here["clean"][0]["nll"], rel=1e-3)
    for part in ("attacks", "deformations"):
        for ours, theirs in zip(here[part], there[part], strict=True):
            assert theirs["accuracy"] == pytest.approx(ours["accuracy"], abs=4)


def test_a_missing_package_is_said_before_anything_runs(pictures, monkeypatch):
    monkeypatch.setattr(autoattack, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r"pip install 'manifold-mixup\[attacks\]'"):
        battery_of(["clean", "apgd"], pictures)
    assert battery_of(["clean"], pictures) == ("clean",)


@pytest.mark.parametrize(("scale", "blind"), [(1.0, False), (1e6, True)])
def test_an_attack_whose_gradients_vanish_says_so(scale, blind):
    model = nn.Linear(3, 2, bias=False).eval()
    model.weight.data = scale * torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, 0.5]])
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    right = model(x).argmax(1)
    y = torch.where(torch.arange(40) < 30, right, 1 - right)
    data = Data("lines", x, y, x, y, classes=2, eps=0.5, space="units")
    scored = scores(model, x, y, eps=0.5)
    assert scored.fgsm_unmoved == (100 if blind else 0)
    assert (scored.fgsm_accuracy == 75) == blind
    found = evaluate(model, data, battery=["attacks", "strength"], settings=Settings(std=1.0))
    rows = found["attacks"] + found["strength"]
    assert len(rows) == 4
    if not blind:  # the attack breaks some, and nothing is said
        assert found["attacks"][0]["accuracy"] < 75
        assert not any("note" in row for row in rows)
        return
    assert found["attacks"][0]["accuracy"] == 75
    for row in rows:
        name = row["name"]
        assert row["note"].startswith(f"{name}: the gradient is zero or NaN on 30 of the 30 exam")
