"""Neural collapse: closed forms, and formulas written out in numpy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import helmert
from torch import nn

from manifold_mixup.lab.evaluate import Settings, evaluate, features
from manifold_mixup.lab.evaluate.collapse import (
    angles,
    class_means,
    duality,
    nearest_mismatch,
    norm_spread,
    within_between,
)
from manifold_mixup.lab.models.fresh import fresh_model


def simplex(classes, dim):
    """Return the corners of a regular simplex around the origin, ``(classes, dim)``."""
    corners = np.zeros((classes, dim))
    corners[:, : classes - 1] = helmert(classes).T
    return torch.from_numpy(corners)


def written_out(states, y, weight=None):
    """Return NC1, the three parts of NC2, and NC3 as in the paper, in numpy."""
    h, y = states.double().numpy(), y.numpy()
    labels = np.unique(y)
    means = np.array([h[y == c].mean(0) for c in labels])
    middle = means.mean(0)
    away = [h[y == c] - m for c, m in zip(labels, means, strict=True)]
    within = np.mean([np.mean([np.outer(one, one) for one in of], 0) for of in away], 0)
    between = np.mean([np.outer(m - middle, m - middle) for m in means], 0)
    nc1 = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / len(labels)
    norms = [np.linalg.norm(m - middle) for m in means]
    cosines = [
        (means[i] - middle) @ (means[j] - middle) / norms[i] / norms[j]
        for i in range(len(labels))
        for j in range(len(labels))
        if i != j
    ]
    found = [nc1, np.std(norms) / np.mean(norms), np.std(cosines)]
    found.append(np.mean([abs(c + 1 / (len(labels) - 1)) for c in cosines]))
    if weight is not None:
        w, m = weight.double().numpy()[labels], means - middle
        found.append(np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m)) ** 2)
    return found


def ours(states, y, weight=None):
    means = class_means(states, y)
    found = [within_between(states, y, means), norm_spread(means), *angles(means)]
    return found if weight is None else [*found, duality(weight, means)]


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_simplex_has_collapsed(classes):
    corners = simplex(classes, classes + 2)
    y = torch.arange(5 * classes) % classes
    states = 7 * corners[y] + torch.arange(classes + 2.0)  # of any size, anywhere
    assert ours(states, y, 3 * corners) == pytest.approx([0] * 5, abs=1e-12)
    means = class_means(states, y)
    assert nearest_mismatch(states, means, y) == 0


@pytest.mark.parametrize(("classes", "dim"), [(2, 3), (4, 3), (4, 9), (5, 2), (6, 40)])
def test_the_numbers_are_those_of_the_formulas(classes, dim):
    generator = torch.Generator().manual_seed(classes * dim)
    y = torch.randint(0, classes, (60,), generator=generator)
    states = (
        torch.randn(60, dim, generator=generator)
        + torch.randn(classes, dim, generator=generator)[y]
    )
    weight = torch.randn(classes, dim, generator=generator)
    assert ours(states, y, weight) == pytest.approx(written_out(states, y, weight), rel=1e-6)


def test_noise_within_classes_raises_the_first_alone():
    """Two points at ± ε beside each corner, along each of its C - 1 directions in turn."""
    classes, size = 4, 0.1
    corners = simplex(classes, classes - 1)
    steps = torch.cat([torch.eye(classes - 1), -torch.eye(classes - 1)]).double() * size
    states = (corners[:, None] + steps).flatten(0, 1)
    y = torch.arange(classes).repeat_interleave(len(steps))
    # Σ_W = ε² / (C - 1) and Σ_B = 1 / C, each times the unit matrix of C - 1 dimensions.
    nc1, *nc2 = ours(states, y)
    assert nc1 == pytest.approx(size**2)
    assert nc2 == pytest.approx([0, 0, 0], abs=1e-12)


def test_variance_where_class_means_do_not_differ_is_not_counted():
    corners = simplex(3, 5)
    y = torch.arange(6) % 3
    states = corners[y]
    states[:3, 4], states[3:, 4] = 1, -1
    assert within_between(states, y, class_means(states, y)) == pytest.approx(0, abs=1e-12)


def test_the_corners_of_a_rectangle_have_equal_norms_and_other_angles():
    wide, high = 3.0, 1.0
    means = torch.tensor([[wide, high], [wide, -high], [-wide, -high], [-wide, high]])
    found = class_means(means, torch.arange(4))
    assert norm_spread(found) == pytest.approx(0, abs=1e-12)
    near = (wide**2 - high**2) / (wide**2 + high**2)
    cosines = np.array([near, -near, -1.0])  # of each corner with the three others
    deviation, distance = angles(found)
    assert deviation == pytest.approx(cosines.std())
    assert distance == pytest.approx(np.abs(cosines + 1 / 3).mean())


def test_the_classifier_against_the_means():
    corners = simplex(3, 4)
    means = class_means(corners, torch.arange(3))
    assert duality(corners, means) == pytest.approx(0, abs=1e-12)
    assert duality(-2 * corners, means) == pytest.approx(4)
    apart = torch.zeros(3, 4, dtype=torch.float64)
    apart[:, 3] = 1  # no direction in common
    assert duality(apart, means) == pytest.approx(2)


def test_the_nearest_mean_against_the_decision():
    means = class_means(torch.tensor([[0.0], [10.0]]), torch.tensor([2, 5]))
    states = torch.tensor([[1.0], [4.0], [6.0], [20.0]])
    assert nearest_mismatch(states, means, torch.tensor([2, 2, 5, 5])) == 0
    assert nearest_mismatch(states, means, torch.tensor([2, 5, 5, 0])) == 50


def test_states_that_are_all_equal_say_nothing():
    states, y = torch.ones(6, 3), torch.arange(6) % 2
    assert np.isnan(within_between(states, y, class_means(states, y)))
    with pytest.raises(ValueError, match="all examples are of one class"):
        class_means(states, torch.zeros(6, dtype=torch.long))


def test_a_part_of_the_battery(task, plain):
    model = fresh_model(replace(plain, width=8), task)
    settings = Settings(layers=("input", "hidden1"))
    rows = evaluate(model, task, battery=["collapse"], settings=settings)["collapse"]
    assert [row["name"] for row in rows] == [
        "hidden1, training", "hidden1, test", "features, training", "features, test",
    ]  # fmt: skip
    keys = ("nc1", "nc2_norms", "nc2_angles", "nc2_maximal", "nc3")
    weight = model.head.weight.detach()
    for k, layer in enumerate(("hidden1", None)):
        trained = features(model, task.x, layer=layer).double().numpy()
        means = np.array([trained[task.y.numpy() == c].mean(0) for c in range(3)])
        for row, x, y in zip(
            rows[2 * k : 2 * k + 2], (task.x, task.x_test), (task.y, task.y_test), strict=True
        ):
            states = features(model, x, layer=layer)
            expected = written_out(states, y, weight if layer is None else None)
            found = [row[key] for key in keys[: len(expected)]]
            assert found == pytest.approx(expected, rel=1e-5)
            distance = np.linalg.norm(states.double().numpy()[:, None] - means, axis=2)
            with torch.no_grad():
                decided = model.eval()(x).argmax(1).numpy()
            assert row["nc4"] == pytest.approx(100 * (distance.argmin(1) != decided).mean())
    assert rows[0]["nc3"] is None


def test_without_a_linear_layer_it_is_refused(task):
    model = nn.Sequential(nn.Flatten(), nn.ReLU())
    with pytest.raises(ValueError, match="no linear layer that runs"):
        evaluate(model, task, battery=["collapse"])
