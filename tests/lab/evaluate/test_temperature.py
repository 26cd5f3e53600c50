"""Temperature scaling, compared with closed forms and a grid, and fitted on other examples only."""

import math

import pytest
import torch
from torch.nn import functional as F

from manifold_mixup.lab.evaluate.temperature import HALF, NoTemperature, temperature, twofold


def calibrated(count: int, *, spread: float = 2.0, seed: int = 0):
    """Draw logits, and labels by their softmax."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, 5, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("factor", [1e-200, 0.001, 0.25, 1.0, 3.0, 1000.0, 1e30, 1e200])
def test_a_factor_on_exactly_calibrated_logits_is_found(factor):
    # Of 40 predictions with probability 0.75, 30 are right: T = 1 is exactly the best.
    odds = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log().expand(HALF, 2)
    y = torch.tensor([0, 0, 0, 1] * (HALF // 4))
    assert temperature(factor * odds, y) == pytest.approx(factor, rel=1e-9)


def test_two_classes_in_closed_form():
    # All logits are (3, 0), and a share r is right: sigmoid(3 / T) = r.
    y = torch.tensor([0] * 36 + [1] * 4)
    logits = torch.tensor([[3.0, 0.0]]).expand(40, 2)
    assert temperature(logits, y) == pytest.approx(3 / math.log(36 / 4), rel=1e-9)


@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_no_temperature_of_a_grid_is_better(factor):
    logits, y = calibrated(300)
    logits = factor * logits
    found = temperature(logits, y)
    grid = [found * 1.002**k for k in range(-600, 601) if k]
    losses = [F.cross_entropy(logits / one, y).item() for one in grid]
    best = F.cross_entropy(logits / found, y).item()
    assert best < min(losses)
    assert grid[losses.index(min(losses))] == pytest.approx(found, rel=0.003)


def test_logits_of_calibrated_predictions_times_three_get_three():
    logits, y = calibrated(20_000)
    assert temperature(3 * logits, y) == pytest.approx(3, rel=0.03)
    assert temperature(3 * logits, y) == pytest.approx(3 * temperature(logits, y), rel=1e-9)


def test_what_all_logits_of_an_example_share_does_not_matter():
    logits, y = calibrated(200)
    moved = logits + 1e4 * torch.arange(200)[:, None]
    assert temperature(moved, y) == pytest.approx(temperature(logits, y), rel=1e-6)


def test_each_half_is_divided_by_the_temperature_of_the_other():
    logits, y = calibrated(201)
    before = logits.clone()
    scaled = twofold(logits, y, generator=torch.Generator().manual_seed(3))
    assert torch.equal(logits, before)
    order = torch.randperm(201, generator=torch.Generator().manual_seed(3))
    first, second = order[:101], order[101:]
    assert scaled.temperatures == (
        temperature(logits[second], y[second]),
        temperature(logits[first], y[first]),
    )
    assert scaled.temperatures[0] != scaled.temperatures[1]
    for half, one in zip((first, second), scaled.temperatures, strict=True):
        assert torch.equal(scaled.logits[half], logits[half] / one)


def test_the_label_of_an_example_does_not_reach_its_own_temperature():
    logits, y = calibrated(160)
    order = torch.randperm(160, generator=torch.Generator().manual_seed(0))
    changed = y.clone()
    changed[order[0]] = (y[order[0]] + 1) % 5  # in the first half
    one, other = (
        twofold(logits, labels, generator=torch.Generator().manual_seed(0))
        for labels in (y, changed)
    )
    assert torch.equal(one.logits[order[:80]], other.logits[order[:80]])
    assert not torch.equal(one.logits[order[80:]], other.logits[order[80:]])


def test_predictions_stay():
    logits, y = calibrated(400)
    scaled = twofold((7 * logits).float(), y, generator=torch.Generator().manual_seed(0))
    assert torch.equal(scaled.logits.argmax(1), logits.argmax(1))
    assert all(one > 5 for one in scaled.temperatures)


def test_what_determines_no_temperature():
    logits, y = calibrated(2 * HALF)
    draw = torch.Generator().manual_seed(0)
    with pytest.raises(NoTemperature, match=r"at least 40 .* but there are 39. Test more examples"):
        temperature(logits[:39], y[:39])
    with pytest.raises(NoTemperature, match=r"but there are 39"):
        twofold(logits[:79], y[:79], generator=draw)
    with pytest.raises(NoTemperature, match=r"all 80 predictions to fit .* are right"):
        temperature(logits, logits.argmax(1))
    with pytest.raises(NoTemperature, match=r"logits of each of the 80 examples .* are equal"):
        temperature(0 * logits + 7, y)
    with pytest.raises(NoTemperature, match=r"the 80 labels .* no better than equal probabilities"):
        temperature(logits, logits.argmin(1))
    logits[3, 2], logits[5, 1] = math.inf, math.nan
    with pytest.raises(NoTemperature, match=r"2 of the 400 logits are not finite"):
        temperature(logits, y)
