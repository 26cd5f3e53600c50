"""Distances to the training set, compared with a loop and closed forms."""

import math

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from manifold_mixup.lab.evaluate.distance import feature_bank, sample


def test_the_score_equals_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(300, 7, generator=generator)
    unknown = 3 * torch.randn(1100, 7, generator=generator)
    for k in (1, 50, 300):
        unit = (
            rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (known, unknown)
        )
        fitted = next(unit).numpy()
        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(fitted)
        theirs = search.kneighbors(next(unit).numpy())[0][:, -1]
        assert feature_bank(known, k=k).score(unknown).tolist() == pytest.approx((-theirs).tolist())


def test_the_length_of_features_does_not_count_but_their_direction():
    known = feature_bank(torch.tensor([[1.0, 0.0]] * 3), k=2)
    score = known.score(torch.tensor([[9.0, 0.0], [0.0, 0.1], [-2.0, 0.0]]))
    assert score.tolist() == pytest.approx([0, -math.sqrt(2), -2])


def test_near_inputs_do_not_tie():
    # Angles of 1e-5 differ by less in their cosine than float32 can hold.
    angle = torch.tensor([1e-5, 2e-5], dtype=torch.float64)
    close = torch.stack([angle.cos(), angle.sin()], 1)
    score = feature_bank(torch.tensor([[1.0, 0.0]]), k=1).score(close)
    assert score.tolist() == pytest.approx([-1e-5, -2e-5])


def test_fewer_examples_than_neighbours():
    known = feature_bank(torch.eye(3), k=50)
    assert known.k == 3
    assert known.score(torch.tensor([[1.0, 0.0, 0.0]])).item() == pytest.approx(-math.sqrt(2))


def test_few_inputs_are_all_taken_and_of_many_different_ones():
    x = torch.arange(100)

    def draw(most: int) -> list[int]:
        return sample(x, generator=torch.Generator().manual_seed(0), most=most).tolist()

    assert draw(100) == list(range(100))
    assert len(set(draw(30))) == 30
    assert draw(30) == draw(30) != list(range(30))
